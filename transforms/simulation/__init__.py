"""Simulated logs whose truth is known. This package imports nothing else of the product."""
