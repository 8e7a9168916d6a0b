"""Read `[privacy]` of the job file: the list of users to forget, and the key of pseudonyms."""

from __future__ import annotations

import datetime as dt
import os
from dataclasses import replace

from pipelines.base import raw_files
from pipelines.base.manifest import fingerprint
from pipelines.base.raw_files import RawFiles
from pipelines.config.jobs import Job, JobError
from transforms.core.messages import safe_variable_name
from transforms.logs import key_source
from transforms.logs.key_source import KeySource
from transforms.logs.privacy import ForgetList, PrivacyFilter, pseudonym
from transforms.logs.readers import LogSettingError


def load_filter(job: Job, key_check: str | None) -> PrivacyFilter:
    """Return ingest's privacy filter. Raises JobError if the key does not match `key_check`, the store's."""
    key = pseudonym_key(job)
    check = check_of(key)
    if key_check is not None and key_check != check:
        raise JobError(_other_key(job, key_check))
    return PrivacyFilter(forget=_forget_list(job), key=replace(_source(job), check=check) if key is not None else None)


def pseudonym_key(job: Job) -> bytes | None:
    """Return the pseudonymisation key, None if not configured. Raises JobError if the configured variable is unset,
    LogError if the secret cannot be read."""
    if job.privacy.pseudonym_key_env is None and job.privacy.pseudonym_key_secret is None:
        return None
    try:
        return _source(job).key()
    except LogSettingError as error:
        raise JobError(str(error)) from error


def _source(job: Job) -> KeySource:
    return KeySource(variable=job.privacy.pseudonym_key_env, secret=job.privacy.pseudonym_key_secret)


def check_of(key: bytes | None) -> str:
    """Return a check value that identifies a key without revealing it; empty without a key."""
    return key_source.key_check(key) if key is not None else ""


def stored_id(job: Job, user_id: str, key_check: str) -> str:
    """Return the id of a user in the store. Raises JobError if the key is not that of the store."""
    key = pseudonym_key(job)
    if key_check != check_of(key):
        raise JobError(_other_key(job, key_check))
    return pseudonym(user_id, key) if key is not None else user_id


def _other_key(job: Job, key_check: str) -> str:
    root, name, secret = job.storage.root, job.privacy.pseudonym_key_env, job.privacy.pseudonym_key_secret
    if name is None and secret is None:
        return (
            f"privacy.pseudonym_key_env is missing: the store in {root} holds pseudonyms; set it to the variable that "
            "holds the key"
        )
    setting = f"privacy.pseudonym_key_secret = {secret!r}"
    if name is not None and (os.environ.get(name) or secret is None):
        setting = f"privacy.pseudonym_key_env = {safe_variable_name(name)}"
    if not key_check:
        return (
            f"{setting}: the store in {root} holds unmodified user ids; use a new root ([storage]), or remove the "
            "setting"
        )
    return (
        f"{setting}: this is not the key of the store in {root}; set the key it was created with, or use a new "
        "root ([storage])"
    )


def forget_files(job: Job) -> RawFiles:
    """Return the files of the list of users to forget. Raises LogError if there is none."""
    never = dt.date.min  # paths of this list have no {date}
    return raw_files.find("privacy.forget", job.privacy.forget or "", start=never, end=never)


def _forget_list(job: Job) -> ForgetList:
    if job.privacy.forget is None:
        return ForgetList()
    found, renamed = forget_files(job), tuple(sorted(job.logs.renamed("forget").items()))
    unread = ForgetList(tuple(file.path for file in found.files), renamed, fingerprint(repr(found.files)))
    ids = unread.ids()
    return replace(unread, digest=fingerprint(ids.to_list()) if len(ids) else "")
