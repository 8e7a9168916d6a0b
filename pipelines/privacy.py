"""`[privacy]`: the list of users to forget, and the key of pseudonyms, from the job file to what ingest works with."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace

from pipelines import raw_files
from pipelines.jobs import Job, JobError
from pipelines.manifest import fingerprint
from pipelines.raw_files import Found
from transforms.screen import ForgetList, Screen, pseudonym

SHORTEST_KEY = 16
_CHECKED = "watchnext: which key is this?"  # no user id: what it becomes may be known


def screen(job: Job, key_check: str | None) -> Screen:
    """What ingest lets through. Raises JobError where the key is not the one of the store, whose check is given."""
    found = Screen(forget=_forget_list(job), key=pseudonym_key(job))
    if key_check is not None and key_check != check_of(found.key):
        raise JobError(_other_key(job, key_check))
    return found


def pseudonym_key(job: Job) -> bytes | None:
    """The key user ids are digested with; None where they stay as they are. Raises JobError without its variable."""
    name = job.privacy.pseudonym_key_env
    if name is None:
        return None
    value = os.environ.get(name, "")
    if len(value) < SHORTEST_KEY:
        state = f"has {len(value)} characters" if value else "is not set"
        raise JobError(
            f"privacy.pseudonym_key_env = {name!r}: the environment variable {state}; it must hold the key of "
            f"pseudonyms, {SHORTEST_KEY} characters or more"
        )
    return value.encode()


def check_of(key: bytes | None) -> str:
    """What a store keeps to know its key again, which does not give the key away; empty without one."""
    return pseudonym(_CHECKED, key)[:16] if key is not None else ""


def stored_id(job: Job, user_id: str, key_check: str) -> str:
    """The id under which a user of the logs is kept. Raises JobError where the key is not that of the store."""
    key = pseudonym_key(job)
    if key_check != check_of(key):
        raise JobError(_other_key(job, key_check))
    return pseudonym(user_id, key) if key is not None else user_id


def _other_key(job: Job, key_check: str) -> str:
    root, name = job.storage.root, job.privacy.pseudonym_key_env
    if not key_check:
        return (
            f"privacy.pseudonym_key_env = {name!r}: the store in {root} holds user ids as they came; begin a new root "
            "([storage]), or leave the setting out"
        )
    if name is None:
        return (
            f"privacy.pseudonym_key_env is missing: the store in {root} holds pseudonyms; name the variable of its key"
        )
    return (
        f"privacy.pseudonym_key_env = {name!r}: this is not the key of the store in {root}; set the key it was made "
        "with, or begin a new root ([storage])"
    )


def forget_files(job: Job) -> Found:
    """The files of the list of users to forget. Raises LogError if there is none."""
    never = dt.date.min  # paths of this list have no {date}
    return raw_files.find("privacy.forget", job.privacy.forget or "", start=never, end=never)


def _forget_list(job: Job) -> ForgetList:
    if job.privacy.forget is None:
        return ForgetList()
    found, renamed = forget_files(job), tuple(sorted(job.logs.renamed("forget").items()))
    unread = ForgetList(tuple(file.path for file in found.files), renamed, fingerprint(repr(found.files)))
    ids = unread.ids()
    return replace(unread, digest=fingerprint(ids.to_list()) if len(ids) else "")
