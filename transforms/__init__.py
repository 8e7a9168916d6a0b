"""Frames in, frames out: pure functions over polars frames, and the Beam transforms that run them on many."""
