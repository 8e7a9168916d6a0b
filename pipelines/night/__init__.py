"""One night, its stages, and its relation to the nights before it."""
