"""The databases that nights are published to, one module per database."""
