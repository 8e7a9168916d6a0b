"""The key for pseudonyms, which each process reads from its environment or from a secret manager.

The key is never part of a job's graph, a manifest or a message. The graph contains a digest of it instead, so that a
worker with a different key fails before it writes anything.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import os
from dataclasses import dataclass
from functools import lru_cache

from transforms.core.messages import safe_variable_name
from transforms.logs.readers import LogError, LogSettingError

MIN_KEY_BYTES = 16  # bytes
_CHECKED = b"watchnext: which key is this?"  # not a user id, so that its digest may be public


@dataclass(frozen=True, kw_only=True)
class KeySource:
    """The source of the key: an environment variable, or a secret of Google Secret Manager if the variable is unset."""

    variable: str | None = None
    secret: str | None = None  # projects/PROJECT/secrets/NAME/versions/VERSION
    check: str = ""  # `key_check` of the key that the night started with; empty until it is read

    def key(self) -> bytes:
        """Return the key.

        Raises LogSettingError if this process has no key, a key that is too short or too simple, or not the key that
        the night started with, and LogError if the secret cannot be read.
        """
        name = f"privacy.pseudonym_key_env = {safe_variable_name(self.variable)}" if self.variable else ""
        key = os.environb.get(os.fsencode(self.variable), b"") if self.variable else b""
        if not key and self.secret:
            name, key = f"privacy.pseudonym_key_secret = {self.secret!r}", _read_secret(self.secret)
        if problem := _problem(key):
            source = "environment variable" if name.startswith("privacy.pseudonym_key_env") else "secret"
            place = " on this worker, which needs the same key as the machine that started the night"
            raise LogSettingError(
                f"{name}: the {source} {problem}{place if self.check else ''}; it must contain the key for pseudonyms, "
                f"at least {MIN_KEY_BYTES} bytes"
            )
        if self.check and key_check(key) != self.check:
            raise LogSettingError(f"{name}: this worker has a different key for pseudonyms than the night started with")
        return key


def key_check(key: bytes) -> str:
    """Return a digest that identifies a key without revealing it."""
    return hmac.digest(key, _CHECKED, hashlib.sha256).hex()[:16]


def _problem(key: bytes) -> str:
    """Return what is wrong with a key; empty if it is valid."""
    if not key:
        return "is not set"
    if len(key) < MIN_KEY_BYTES:
        return f"has {len(key)} {'characters' if key.isascii() else 'bytes'}"
    if len(set(key.strip())) < 2:
        return "is too simple: it repeats one byte"
    return ""


@lru_cache(maxsize=4)
def _read_secret(name: str) -> bytes:
    try:
        manager = importlib.import_module("google.cloud.secretmanager")
        errors = importlib.import_module("google.api_core.exceptions")
        auth = importlib.import_module("google.auth.exceptions")
    except ImportError as error:
        raise LogSettingError(
            f"privacy.pseudonym_key_secret needs the package google-cloud-secret-manager: pip install 'watchnext[gcp]' "
            f"({error})"
        ) from error
    try:
        return bytes(manager.SecretManagerServiceClient().access_secret_version(name=name).payload.data)
    except (errors.GoogleAPIError, auth.GoogleAuthError) as error:
        raise LogError(f"privacy.pseudonym_key_secret = {name!r} cannot be read: {error}") from error
