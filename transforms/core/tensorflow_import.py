"""TensorFlow without its start-up messages, and sooner: `import_tensorflow()` in place of `import tensorflow`.

TensorFlow 2.21 writes a few lines to the standard error while it is imported, before it reads TF_CPP_MIN_LOG_LEVEL.
They are held back here, and shown after all where the import fails. What imports TensorFlow by other ways too (TFT) is
quiet once this was called first. Imports the standard library alone, so the trainer may use it as well.

`collector_paused` is for whatever else takes long to import.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any

_IMPORTING = RLock()
# Traced graphs are objects that stay too. With Python's own 700, 10, 10 a small training takes a seventh more processor
# time, and no less memory.
_COLLECT = (20_000, 20, 20)


def import_tensorflow() -> Any:
    """The `tensorflow` module, imported without noise; threads that ask meanwhile wait until it is whole."""
    with _IMPORTING:
        if "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
            with standard_error_held_back(), collector_paused(), import_without("matplotlib"):
                import tensorflow
            tensorflow.get_logger().setLevel("ERROR")
            gc.set_threshold(*_COLLECT)
    return sys.modules["tensorflow"]


if TYPE_CHECKING:
    tf: Any
else:

    def __getattr__(name: str) -> Any:
        """Return TensorFlow as the attribute `tf`. It is imported when a module asks for it, not with this module."""
        if name != "tf":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return import_tensorflow()


@contextmanager
def collector_paused() -> Iterator[None]:
    """For imports: they make objects by the million, which stay, and Python's collector looks through them again and
    again. That is a sixth of Beam's import and a fourth of TensorFlow's. It does not look at them later either."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def import_without(package: str) -> Iterator[None]:
    """For imports as if a package were not installed. Keras imports Matplotlib, for galleries of images, if it can.

    Threads that call `import_tensorflow` meanwhile wait: they would find the mark in place of the package.
    """
    with _IMPORTING:
        if package in sys.modules:
            yield
            return
        sys.modules[package] = None  # type: ignore[assignment]  # how Python marks what is not to be imported
        try:
            yield
        finally:
            del sys.modules[package]


@contextmanager
def standard_error_held_back() -> Iterator[None]:
    """Keeps what any code, C++ too, writes to the standard error; writes it out if the block raises."""
    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(screen, kept.read())
            raise
        finally:
            os.dup2(screen, 2)
            os.close(screen)
