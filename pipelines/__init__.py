"""The stages of a night, one a module, and what runs them. START HERE: `nightly` is the map of the whole run."""
