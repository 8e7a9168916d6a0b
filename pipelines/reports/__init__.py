"""The data of the report pages."""
