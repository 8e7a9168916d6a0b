"""An object store in memory, as a Beam file system: `memory://`."""

from __future__ import annotations

import io
from typing import Any, ClassVar

from apache_beam.io.filesystem import FileMetadata, FileSystem


class _Upload(io.BytesIO):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def close(self) -> None:
        if not self.closed:
            MemoryFileSystem.content[self._path] = self.getvalue()
        super().close()


class MemoryFileSystem(FileSystem):
    """An object store in memory, as Beam sees those of the clouds: `memory://`."""

    content: ClassVar[dict[str, bytes]] = {}

    @classmethod
    def scheme(cls) -> str:
        return "memory"

    def join(self, basepath: str, *paths: str) -> str:
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path: str) -> tuple[str, str]:
        head, _, tail = path.rpartition("/")
        return head, tail

    def has_dirs(self) -> bool:
        return False

    def mkdirs(self, path: str) -> None:
        raise NotImplementedError

    def _list(self, dir_or_prefix: str) -> Any:
        for path, data in self.content.items():
            if path.startswith(dir_or_prefix):
                yield FileMetadata(path, len(data))

    def create(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        return _Upload(path)

    def open(self, path: str, mime_type: str = "", compression_type: str = "") -> Any:
        return io.BytesIO(self.content[path])

    def exists(self, path: str) -> bool:
        return path in self.content

    def delete(self, paths: list[str]) -> None:
        for path in paths:
            del self.content[path]

    def copy(self, source_file_names: Any, destination_file_names: Any) -> None:
        raise NotImplementedError

    def rename(self, source_file_names: Any, destination_file_names: Any) -> None:
        raise NotImplementedError

    def size(self, path: str) -> int:
        return len(self.content[path])

    last_updated = checksum = metadata = size
