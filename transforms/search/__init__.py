"""User and video vectors, the indexes over them, and the lists that a search returns under the serving rules."""
