"""The stages of a night, one a module, and what runs them. START HERE: `nightly` is the map of the whole run."""

import sys
from contextlib import suppress


def import_beam() -> None:
    """Import Beam, which stages and most commands need first, without the garbage collector, which is faster."""
    if "apache_beam" in sys.modules:
        return
    with suppress(Exception):  # modules that need Beam import it again and show the error; doctor works without it
        from transforms.core.tensorflow_import import collector_paused

        with collector_paused():
            import apache_beam as apache_beam


if any(word.startswith("pipelines.") and word != "pipelines.cli" for word in sys.orig_argv[1:3]):  # python -m
    import_beam()
