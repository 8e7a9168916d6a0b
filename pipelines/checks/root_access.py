"""Whether the root folder can be written to."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.checks.patience import with_timeout

ANSWER_SECONDS = 30.0  # for a remote root


def trouble(path: str) -> str:
    """Why a root cannot be written to; empty where it can. Of a local folder the permissions are looked at; elsewhere a
    file is written and removed."""
    from transforms.core import files

    def probe() -> None:
        name = files.join(path, f"doctor-{os.getpid()}")
        files.replace_file(name, b"a probe of watchnext doctor; may be removed")
        files.remove_files([name])

    try:
        if not files.is_local(path):
            with_timeout(ANSWER_SECONDS, probe)
            return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    place = Path(path)
    while not place.exists():
        place = place.parent
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK):
        return ""
    return f"{place} is not this user's to write to" if place.is_dir() else f"{place} is a file"
