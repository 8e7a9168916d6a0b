"""Settings of the places a night is served from beside its files: the tables below `[storage]` in JOB.toml."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

SECRET = "secret"  # type of an error whose message must not show the value


def _variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise PydanticCustomError(
            SECRET,
            "must be the name of an environment variable, of letters, digits and _: the secret itself stands in the "
            "environment, never in a job file",
        )
    return name


EnvironmentVariable = Annotated[str, AfterValidator(_variable)]


class RedisSettings(BaseModel):
    """The `[storage.redis]` table: a Redis server that is loaded with each published night (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(
        description="`redis://HOST:PORT/DATABASE`, `rediss://...` for TLS, or `unix:///PATH`; never with a password"
    )
    prefix: str = Field("watchnext", description="what all keys begin with; one of its own for each job")
    user_env: EnvironmentVariable | None = Field(
        None, description="environment variable with the user, where the server wants one"
    )
    password_env: EnvironmentVariable | None = Field(None, description="environment variable with the password")
    ca_file: str | None = Field(None, description="certificates to trust with `rediss://`; none: the system's")
    vectors: bool = Field(False, description="whether user vectors are loaded too")
    scores: bool = Field(False, description="whether lists have their scores, 4 bytes a video")
    expire_hours: PositiveFloat = Field(
        1, description="hours that a night stays once it is neither served nor the one served before"
    )
    retry_seconds: float = Field(60, ge=0, description="how long a server that does not answer is tried again")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:  # the value is not shown: its end may be a password
            raise PydanticCustomError(
                SECRET,
                "must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH with a PORT from 0 to "
                "65535",
            ) from error
        text = url if parts.scheme == "unix" else unquote(url)
        if "@" in (parts.netloc if parts.scheme == "unix" else text) or "password" in parts.query:
            raise PydanticCustomError(
                SECRET,
                "must hold no user or password: put them into environment variables and name those in user_env and "
                "password_env",
            )
        if parts.scheme not in ("redis", "rediss", "unix") or (parts.scheme != "unix" and not parts.hostname):
            raise ValueError("url must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH")
        return url

    @field_validator("prefix")
    @classmethod
    def _plain(cls, prefix: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", prefix):
            raise ValueError("prefix must be of letters, digits, and any of _ . : -")
        return prefix

    @model_validator(mode="after")
    def _authority_of_tls(self) -> RedisSettings:
        if self.ca_file and not self.url.startswith("rediss://"):
            raise ValueError(f"ca_file is for TLS, which {self.url} is without: begin the url with rediss://")
        return self


class BigtableSettings(BaseModel):
    """The `[storage.bigtable]` table: a table of Bigtable that is loaded with each published night (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(description="Google Cloud project")
    instance: str = Field(description="its Bigtable instance")
    table: str = Field(description="a table that is there")
    family: str = Field("watchnext", pattern=r"^[\w.-]+$", description="a column family of the table")
    prefix: str = Field(
        "watchnext", pattern=r"^[\w.-]+$", description="what all row keys begin with; one of its own for each job"
    )
    vectors: bool = Field(False, description="whether user vectors are loaded too")
    scores: bool = Field(False, description="whether lists have their scores, 4 bytes a video")


class BigQuerySettings(BaseModel):
    """The `[storage.bigquery]` table: tables of BigQuery that are loaded with each published night (stage publish)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    project: str = Field(pattern=r"^[\w.:-]+$", description="Google Cloud project")
    dataset: str = Field(pattern=r"^\w+$", description="a dataset of it that is there")
    table: str = Field(
        "watchnext", pattern=r"^\w+$", description="name of the view that is read; the tables of nights begin with it"
    )
    temp: str | None = Field(
        None, description="folder on Cloud Storage that loads go through; none: the `--temp_location` of Beam's options"
    )
    vectors: bool = Field(False, description="whether user vectors are loaded too")
    videos: bool = Field(False, description="whether video vectors are loaded too, with a view of their own")
