"""What stage ingest has to read, and the changes to rows that are stored already."""
