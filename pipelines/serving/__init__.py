"""Reading published lists, and switching from one publication to the next."""
