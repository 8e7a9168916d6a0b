"""Import TensorFlow faster and without its start-up messages: `import_tensorflow()` replaces `import tensorflow`.

TensorFlow 2.21 writes a few lines to the standard error stream during its import, before it reads
TF_CPP_MIN_LOG_LEVEL. They are captured here, and written out if the import fails. Call `import_tensorflow` before the
import of packages that import TensorFlow themselves (TFT). This module imports only the standard library, so that the
trainer may use it too.

`collector_paused` speeds up other large imports.
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
# Traced graphs are long-lived objects too. With Python's default (700, 10, 10) a small training takes 1/7 more
# processor time and no less memory.
_GC_THRESHOLDS = (20_000, 20, 20)


def import_tensorflow() -> Any:
    """Return the `tensorflow` module, importing it silently. Other threads wait until the import has finished."""
    with _IMPORTING:
        if "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
            os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
            with standard_error_held_back(), collector_paused(), import_without("matplotlib"):
                import tensorflow
            tensorflow.get_logger().setLevel("ERROR")
            gc.set_threshold(*_GC_THRESHOLDS)
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
    """Pause Python's garbage collector, and exclude the objects created so far from later collections.

    For imports: they create millions of long-lived objects, which the collector would scan again and again. That takes
    1/6 of the time of Beam's import and 1/4 of TensorFlow's.
    """
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
    """Run imports as if a package were not installed, for example Matplotlib, an optional import of Keras.

    Threads that call `import_tensorflow` meanwhile wait, as the package may be TensorFlow.
    """
    with _IMPORTING:
        if package in sys.modules:
            yield
            return
        sys.modules[package] = None  # type: ignore[assignment]  # makes `import` raise ImportError
        try:
            yield
        finally:
            del sys.modules[package]


@contextmanager
def standard_error_held_back() -> Iterator[None]:
    """Capture what Python and C++ code writes to the standard error stream; write it out only if the block raises."""
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(stderr, captured.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
