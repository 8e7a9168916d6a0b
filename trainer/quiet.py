"""TensorFlow without its start-up messages: `from trainer.quiet import tf` in place of `import tensorflow as tf`."""

from __future__ import annotations

from transforms.core.tensorflow_import import import_tensorflow

tf = import_tensorflow()

__all__ = ["tf"]
