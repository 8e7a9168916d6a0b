"""Settings of the databases that nights are published to: the tables below `[storage]` in JOB.toml."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

SECRET = "secret"  # error type; its message must not show the value


def _secret_name(pattern: str, what: str) -> AfterValidator:
    """Return a check of a name that must match a pattern. Its error does not show the value, perhaps a secret."""

    def check(name: str) -> str:
        if not re.fullmatch(pattern, name):
            raise PydanticCustomError(SECRET, f"must be the name of {what}, never into a job file")
        return name

    return AfterValidator(check)


EnvironmentVariable = Annotated[
    str,
    _secret_name(
        "[A-Za-z_][A-Za-z0-9_]*",
        "an environment variable, of letters, digits and _: put the secret itself into the environment",
    ),
]
SecretVersion = Annotated[
    str,
    _secret_name(
        "projects/[^/]+/(locations/[^/]+/)?secrets/[^/]+/versions/[^/]+",
        "a secret, projects/PROJECT/secrets/NAME/versions/VERSION: put the key itself into the secret",
    ),
]


class RedisSettings(BaseModel):
    """The `[storage.redis]` table: a Redis server that each published night is loaded into (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="`redis://HOST:PORT/DATABASE`, `rediss://...` for TLS, or `unix:///PATH`; without a password"
    )
    prefix: str = Field("watchnext", description="prefix of all keys; use a different one for each job")
    user_env: EnvironmentVariable | None = Field(
        None, description="environment variable with the user name, if the server requires one"
    )
    password_env: EnvironmentVariable | None = Field(None, description="environment variable with the password")
    ca_file: str | None = Field(None, description="CA certificates to trust with `rediss://`; none: the system's")
    vectors: bool = Field(False, description="whether user vectors are also loaded")
    scores: bool = Field(False, description="whether lists include scores, 4 bytes per video")
    expire_hours: PositiveFloat = Field(
        1, description="hours until a night expires that is neither served nor the one served before"
    )
    retry_seconds: float = Field(60, ge=0, description="how long to retry while the server does not answer")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:  # the value is not shown because it may contain a password
            raise PydanticCustomError(
                SECRET,
                "must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH with a PORT from 0 to "
                "65535",
            ) from error
        text = url if parts.scheme == "unix" else unquote(url)
        if "@" in (parts.netloc if parts.scheme == "unix" else text) or "password" in parts.query:
            raise PydanticCustomError(
                SECRET,
                "must not contain a user or password: put them into environment variables and name these in user_env "
                "and password_env",
            )
        if parts.scheme not in ("redis", "rediss", "unix") or (parts.scheme != "unix" and not parts.hostname):
            raise ValueError("url must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH")
        return url

    @field_validator("prefix")
    @classmethod
    def _plain(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", prefix):
            raise ValueError("prefix may contain only letters, digits and the characters _ . : -")
        return prefix

    @model_validator(mode="after")
    def _authority_of_tls(self) -> RedisSettings:
        if self.ca_file and not self.url.startswith("rediss://"):
            raise ValueError(f"ca_file needs TLS, which {self.url} does not use: begin the url with rediss://")
        return self


class BigtableSettings(BaseModel):
    """The `[storage.bigtable]` table: a Bigtable table that each published night is loaded into (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(description="Google Cloud project")
    instance: str = Field(description="its Bigtable instance")
    table: str = Field(description="an existing table")
    family: str = Field("watchnext", pattern=r"^[\w.-]+$", description="a column family of the table")
    prefix: str = Field(
        "watchnext", pattern=r"^[\w.-]+$", description="prefix of all row keys; use a different one for each job"
    )
    vectors: bool = Field(False, description="whether user vectors are also loaded")
    scores: bool = Field(False, description="whether lists include scores, 4 bytes per video")


class BigQuerySettings(BaseModel):
    """The `[storage.bigquery]` table: BigQuery tables that each published night is loaded into (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(pattern=r"^[\w.:-]+$", description="Google Cloud project")
    dataset: str = Field(pattern=r"^\w+$", description="an existing dataset of the project")
    table: str = Field(
        "watchnext", pattern=r"^\w+$", description="name of the view to query, and prefix of the nights' tables"
    )
    temp: str | None = Field(
        None, description="folder on Cloud Storage for load files; none: the `--temp_location` of Beam's options"
    )
    vectors: bool = Field(False, description="whether user vectors are also loaded")
    videos: bool = Field(False, description="whether video vectors are also loaded, into a table with a separate view")
