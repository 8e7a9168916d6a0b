"""A local working directory for training. Remote inputs are downloaded and results uploaded.

    with open_workdir(folder) as workdir:
        examples = workdir.download(examples_folder, names)                  # a local folder
        train(..., examples, workdir.local, on_save=workdir.upload_checkpoints)
        entries = workdir.upload_results(["info.json"], ["tower-1a2b"])

If the folder is local, training works in the folder itself and nothing is copied. Otherwise files are copied to the
disk of TMPDIR, which must have room for the examples and the model. Every checkpoint is uploaded as soon as it is
complete, so an interrupted training resumes from the last checkpoint, also on another machine.
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
_NEWEST = "checkpoint"  # TensorFlow's index of checkpoints


@dataclass(frozen=True, kw_only=True)
class LocalWorkdir:
    """The folder of a stage, and the local folder in which training runs."""

    folder: str
    local: str
    scratch: str
    kept: dict[str, int] = field(default_factory=dict)  # file -> time of change, as last downloaded or uploaded

    def download(self, folder: str, names: Iterable[str]) -> str:
        """Return a local folder containing `names`: the folder itself if it is local, otherwise a copy."""
        if files.is_local(folder):
            return files.local_copy(folder)
        target = Path(self.scratch) / f"{len(list(Path(self.scratch).iterdir()))}" / Path(folder).name
        files.download(folder, [paths.join(folder, name) for name in names], target)
        return str(target)

    def upload_checkpoints(self) -> None:
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

    def upload_results(self, names: Iterable[str], folders: Iterable[str]) -> list[FileEntry]:
        """Upload the results, files and sub-folders of the local folder, and return their entries."""
        if self.local == self.folder:
            entries = [files.file_entry(self.folder, name) for name in names]
            return entries + [entry for below in folders for entry in files.list_entries(self.folder, below)]
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
    """Open a working directory for a stage's folder, with existing checkpoints."""
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        if files.is_local(folder):
            folder = files.local_copy(folder)
            yield LocalWorkdir(folder=folder, local=folder, scratch=scratch)
            return
        local = Path(scratch) / "model"
        local.mkdir()
        workdir = LocalWorkdir(folder=folder, local=str(local), scratch=scratch)
        files.download(folder, files.list_files(paths.join(folder, CHECKPOINTS)), local)
        workdir.kept.update(workdir._found())
        yield workdir
