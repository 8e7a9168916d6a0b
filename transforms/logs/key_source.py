"""Secrets that a job file names: each process reads them from its own environment or from a secret manager.

No secret is part of a job's graph, of a manifest or of a message. A digest of the key of pseudonyms travels in place of
the key, so that a worker with another key fails before it writes anything.
"""

from __future__ import annotations

import hashlib
import hmac
import importlib
import os
from dataclasses import dataclass
from functools import lru_cache

from transforms.core.printable import safe_variable_name
from transforms.logs.readers import LogError, LogSettingError

SHORTEST_KEY = 16  # bytes
_CHECKED = b"watchnext: which key is this?"  # no user id: what it becomes may be known


@dataclass(frozen=True, kw_only=True)
class KeySource:
    """Where the key of pseudonyms comes from: an environment variable, a secret of Google Secret Manager, or the secret
    where the variable is not set."""

    variable: str | None = None
    secret: str | None = None  # projects/PROJECT/secrets/NAME/versions/VERSION
    check: str = ""  # of the key that the night began with; empty while that is being read

    def key(self) -> bytes:
        """The key. Raises LogSettingError where this process has none, a key that is too simple, or another one than
        the night began with, LogError where the secret cannot be read."""
        name = f"privacy.pseudonym_key_env = {safe_variable_name(self.variable)}" if self.variable else ""
        key = os.environb.get(os.fsencode(self.variable), b"") if self.variable else b""
        if not key and self.secret:
            name, key = f"privacy.pseudonym_key_secret = {self.secret!r}", _read_secret(self.secret)
        if trouble := _trouble(key):
            place = "environment variable" if name.startswith("privacy.pseudonym_key_env") else "secret"
            at = " on this worker, which has to have it as the machine that starts the night has" if self.check else ""
            raise LogSettingError(
                f"{name}: the {place} {trouble}{at}; it must hold the key of pseudonyms, {SHORTEST_KEY} bytes or more"
            )
        if self.check and check_of(key) != self.check:
            raise LogSettingError(f"{name}: this worker has another key of pseudonyms than the night began with")
        return key


def check_of(key: bytes) -> str:
    """What is kept of a key to know it again, which does not give the key away."""
    return hmac.digest(key, _CHECKED, hashlib.sha256).hex()[:16]


def _trouble(key: bytes) -> str:
    """What is wrong with a key; empty if nothing is."""
    if not key:
        return "is not set"
    if len(key) < SHORTEST_KEY:
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
