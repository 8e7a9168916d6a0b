"""The job file: its tables, their checks, and the options of Beam."""
