"""Public data sets as log tables. Start at `pipelines/import_logs.py`."""
