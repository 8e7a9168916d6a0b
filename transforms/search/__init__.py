"""Video and user vectors, the index over them, and the lists that the search returns under serving rules."""
