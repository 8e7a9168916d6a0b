"""Measurement of lists and models. Nothing in this package changes what is served."""
