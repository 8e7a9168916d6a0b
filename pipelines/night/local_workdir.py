"""Where a training works: TensorFlow reads and writes local disks, so what lies elsewhere is brought and taken back.

    with workplace.at(folder) as place:
        examples = place.bring(given, names)                                 # a local folder
        train(..., examples, place.local, on_save=place.keep)
        entries = place.leave(["info.json"], ["tower-1a2b"])

The trainer knows nothing of it. On a local disk all this is the folder itself, and nothing is copied. Elsewhere the
files are copied to the disk of TMPDIR, which must have room for the examples and the model, and every checkpoint goes
to the storage as soon as it is whole: a training that was killed, with its machine or not, goes on from the last one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.base import paths
from transforms.core import files
from transforms.core.files import FileEntry

CHECKPOINTS, CURVES = "checkpoints", "tensorboard"
_NEWEST = "checkpoint"  # the file of TensorFlow's that says which checkpoints there are


@dataclass(frozen=True, kw_only=True)
class LocalWorkdir:
    """The folder of a stage, and the local folder that the training works in."""

    folder: str
    local: str
    scratch: str
    kept: dict[str, int] = field(default_factory=dict)  # file -> time of change, as last brought or kept

    def bring(self, folder: str, names: Iterable[str]) -> str:
        """A folder as a local one that has at least the files `names` of it: itself, or a copy of those."""
        if files.is_local(folder):
            return files.local_copy(folder)
        target = Path(self.scratch) / f"{len(list(Path(self.scratch).iterdir()))}" / Path(folder).name
        files.download(folder, [paths.join(folder, name) for name in names], target)
        return str(target)

    def keep(self) -> None:
        """Upload checkpoints and curves; the file that names the newest checkpoint comes last."""
        if self.local == self.folder:
            return
        now = self._found()
        changed = [name for name, changed in now.items() if self.kept.get(name) != changed]
        for name in sorted(changed, key=lambda name: Path(name).name == _NEWEST):
            files.upload(Path(self.local) / name, self.folder, name)
        files.remove_files(paths.join(self.folder, name) for name in self.kept if name not in now)
        self.kept.clear()
        self.kept.update(now)

    def leave(self, names: Iterable[str], folders: Iterable[str]) -> list[FileEntry]:
        """Put files and folders of the local one in their place; their entries."""
        if self.local == self.folder:
            there = [files.file_entry(self.folder, name) for name in names]
            return there + [entry for below in folders for entry in files.list_entries(self.folder, below)]
        local = Path(self.local)
        every = [*names, *(name for below in folders for name in _names(local, below))]
        return [files.upload(local / name, self.folder, name) for name in every]

    def _found(self) -> dict[str, int]:
        local = Path(self.local)
        found = (path for below in (CHECKPOINTS, CURVES) for path in (local / below).rglob("*") if path.is_file())
        return {path.relative_to(local).as_posix(): path.stat().st_mtime_ns for path in found}


def _names(local: Path, below: str) -> list[str]:
    """Return the files of a local sub-folder in order, relative to the folder."""
    return sorted(path.relative_to(local).as_posix() for path in (local / below).rglob("*") if path.is_file())


@contextmanager
def open_workdir(folder: str) -> Iterator[LocalWorkdir]:
    """The workplace of a stage's folder, with the checkpoints that lie there."""
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        if files.is_local(folder):
            folder = files.local_copy(folder)
            yield LocalWorkdir(folder=folder, local=folder, scratch=scratch)
            return
        local = Path(scratch) / "model"
        local.mkdir()
        place = LocalWorkdir(folder=folder, local=str(local), scratch=scratch)
        files.download(folder, files.list_files(paths.join(folder, CHECKPOINTS)), local)
        place.kept.update(place._found())
        yield place
