"""Plumbing for Beam, polars and files. Nothing in this package knows what a watch or a video is."""
