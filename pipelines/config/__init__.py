"""The job file and its validation, and the Beam options."""
