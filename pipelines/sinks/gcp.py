"""Shared code of the sinks on Google Cloud: client libraries, error messages, and the parts of a night to load."""

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
from transforms.sinks import SinkError
from transforms.sinks.list_rows import ListPart

_SERVICE_ERROR = re.compile(
    r"(?:google\.api_core\.exceptions\.\w+|BigQuery job \S+ failed\. Error Result): (.+?)(?: \[while running .*)?$",
    re.M,
)


def library(name: str, sink: str) -> Any:
    """Import a client library of Google Cloud. Raises StageError if the extra is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise StageError(f"[storage.{sink}] needs the package {name}: pip install 'watchnext[gcp]'") from error


@contextmanager
def translate_errors(place: str) -> Iterator[None]:
    """Raise an error of a Google service, in the client or in a worker, as a SinkError that names the place."""
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
    """Return the message of a service from an error that a runner or client may have wrapped; None for other errors."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    for seen in causes(error, with_context=True):
        if isinstance(seen, GoogleAuthError):
            return f"no credentials ({seen}): set GOOGLE_APPLICATION_CREDENTIALS or log in with gcloud"
        if isinstance(seen, GoogleAPIError):
            return str(seen)
        batch = getattr(seen, "exc", None)  # the causes of Bigtable's MutationsBatchError, which its message omits
        if isinstance(batch, list) and batch:
            return str(batch[0])
    messages = _SERVICE_ERROR.findall(str(error))
    return messages[-1] if messages else None


def content_mark(files: NightFiles, *settings: Any) -> str:
    """Return an eight-digit mark that identifies the loaded files and the settings that select their content."""
    return manifest.fingerprint(files.attempt, settings)[:8]


def list_parts(files: NightFiles, *, vectors: bool) -> list[ListPart]:
    """Return the files of lists and default lists; with `vectors`, each bucket's lists with the bucket's vectors.

    Each part begins at another position of its rows. All files are ordered by user, so that otherwise all workers would
    write to the same server at the same time.
    """
    vectors_by_bucket = {paths.shard_index(path): path for path in files.vectors} if vectors else {}
    count = len(files.lists)
    listed = [
        ListPart(lists=path, vectors=vectors_by_bucket.get(paths.shard_index(path), ""), start=n / count)
        for n, path in enumerate(files.lists)
    ]
    return [*listed, *(ListPart(lists=path) for path in files.defaults)]


def default_rows(files: NightFiles) -> int:
    """Return the number of default lists."""
    return sum(file_system.read_parquet(path, ["country"]).height for path in files.defaults)
