"""A window of events, and the TFRecord examples that the generator learns from."""
