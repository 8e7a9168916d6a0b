"""A Flink cluster on this machine, and the image and manifest of one on Kubernetes; see docs/runners.md."""
