"""The databases that lists are published to, one module for each."""
