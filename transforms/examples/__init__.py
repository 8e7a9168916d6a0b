"""Build the TFRecord examples of the candidate generator from a window of events."""
