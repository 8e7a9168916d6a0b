"""The local page of `watchnext serve`: what is published, for people who judge lists."""
