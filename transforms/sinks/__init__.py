"""The wire formats of the databases that serve published lists."""
