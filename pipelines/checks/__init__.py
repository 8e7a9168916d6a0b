"""What `watchnext doctor` looks at, one module a subject."""
