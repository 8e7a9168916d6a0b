"""Reading the published lists, and switching from one publication to the next."""
