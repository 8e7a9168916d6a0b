"""A Flink cluster on this machine, and what one elsewhere is made from; see docs/runners.md."""
