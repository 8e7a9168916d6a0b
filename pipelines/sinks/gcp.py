"""What the sinks on Google Cloud share: its client libraries, an optional extra, what its services refuse, and the
parts of a night that Beam loads."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.base import manifest, paths
from pipelines.night.errors import StageError, causes
from pipelines.night.sink_protocol import NightFiles
from transforms.core import files as file_system
from transforms.sinks.errors import SinkError
from transforms.sinks.list_rows import ListPart

_TOLD = re.compile(
    r"(?:google\.api_core\.exceptions\.\w+|BigQuery job \S+ failed\. Error Result): (.+?)(?: \[while running .*)?$",
    re.M,
)


def library(name: str, sink: str) -> Any:
    """A module of Google's. Raises StageError where the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StageError(f"[storage.{sink}] needs {name}, which is not here: pip install 'watchnext[gcp]'") from error


@contextmanager
def translate_errors(place: str) -> Iterator[None]:
    """A SinkError that names the place, for what Google's services refuse to the client or to a pipeline's workers."""
    try:
        yield
    except (StageError, SinkError):
        raise
    except Exception as error:
        reason = service_message(error)
        if reason is None:
            raise
        raise SinkError(f"{place}: {reason}") from error


def service_message(error: BaseException) -> str | None:
    """What a service said, in an error that a runner or a client may have wrapped; None where it is another error."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    for seen in causes(error, with_context=True):
        if isinstance(seen, GoogleAuthError):
            return f"no credentials ({seen}): set GOOGLE_APPLICATION_CREDENTIALS or log in with gcloud"
        if isinstance(seen, GoogleAPIError):
            return str(seen)
        batch = getattr(seen, "exc", None)  # of Bigtable's MutationsBatchError, which does not say what happened
        if isinstance(batch, list) and batch:
            return str(batch[0])
    told = _TOLD.findall(str(error))
    return told[-1] if told else None


def content_mark(files: NightFiles, *settings: Any) -> str:
    """Eight digits that tell apart what is loaded: other files, or other settings of what of them."""
    return manifest.fingerprint(files.attempt, settings)[:8]


def list_parts(files: NightFiles, *, vectors: bool) -> list[ListPart]:
    """The files of lists and default lists, those of a bucket with the bucket's vectors where asked for.

    Each begins elsewhere in its rows: files that are in order of the users would else all write to the server of the
    first ones, then all to the next.
    """
    beside = {paths.shard_index(path): path for path in files.vectors} if vectors else {}
    count = len(files.lists)
    listed = [
        ListPart(lists=path, vectors=beside.get(paths.shard_index(path), ""), start=n / count)
        for n, path in enumerate(files.lists)
    ]
    return [*listed, *(ListPart(lists=path) for path in files.defaults)]


def default_rows(files: NightFiles) -> int:
    """How many default lists there are."""
    return sum(file_system.read_parquet(path, ["country"]).height for path in files.defaults)
