"""The checks of `watchnext doctor`, one module for each subject."""
