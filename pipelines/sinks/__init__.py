"""Places that lists are served from besides their Parquet files: what each can do is in protocol.py."""
