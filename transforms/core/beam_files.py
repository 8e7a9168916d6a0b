"""Beam's file systems, imported at their first use: importing Beam takes a second, and local files do not need it.

FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
"""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import Any

_REMOTE = re.compile(r"[a-zA-Z][-a-zA-Z0-9+.]*://")  # Beam's own pattern of a scheme


class _LazyClass:
    """A class of Beam whose attributes are looked up when they are used."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(_load(self._module, self._name), attribute)


@cache
def _load(module: str, name: str) -> Any:
    from transforms.core import object_stores

    object_stores.share_s3_clients()
    return getattr(importlib.import_module(module), name)


FileSystems: Any = _LazyClass("apache_beam.io.filesystems", "FileSystems")
CompressionTypes: Any = _LazyClass("apache_beam.io.filesystem", "CompressionTypes")


def is_local(path: str) -> bool:
    """Return whether a path is on a local file system. Raises ValueError for a scheme that Beam does not know."""
    if not _REMOTE.match(path.strip()):
        return True
    from apache_beam.io.localfilesystem import LocalFileSystem

    return isinstance(FileSystems.get_filesystem(path), LocalFileSystem)
