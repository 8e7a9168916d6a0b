"""The stages of a night, one a module, and what runs them. START HERE: `nightly` is the map of the whole run."""

from contextlib import suppress

with suppress(Exception):  # modules that need Beam import it again and show the error; doctor works without it
    from transforms.core.tensorflow_import import collector_paused

    with collector_paused():  # what every stage and command needs first
        import apache_beam as apache_beam
