"""Read a job for a command that only reads its root: without Beam, unless options for Beam are given."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.config.jobs import Job, load_job


def open_job(path: str, flags: Sequence[str]) -> Job:
    """Read a job file, and apply options to Beam's file systems, such as credentials of a remote root.

    Raises JobError for a mistake in the file, OptionError for an unknown option.
    """
    if flags:
        from pipelines.config.beam_options import pipeline_options  # imports Beam, which takes a second

        pipeline_options(None, flags)
    return load_job(path)
