"""Connect to a Redis server, retry commands while it does not answer, and translate its errors into messages.

    with RedisServer(url="redis://localhost:6379/0").session() as redis:
        redis.do("SET", "key", b"value")

A command that is retried may already have been executed before its answer was lost, so send only idempotent commands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from transforms.core.messages import safe_variable_name
from transforms.sinks import SinkError

FIRST_WAIT_SECONDS, MAX_WAIT_SECONDS = 0.1, 5.0
CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 60.0


@dataclass(frozen=True, kw_only=True)
class RedisServer:
    """The address of a server. User and password are read from the environment, also on workers, so that no job graph
    contains them."""

    url: str
    user_env: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    retry_seconds: float = 60.0

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session and close it afterwards. It connects at the first command."""
        client = self._client()
        try:
            yield Session(self, client)
        finally:
            client.close()

    def _client(self) -> Any:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise SinkError("[storage.redis] needs the package redis: pip install 'watchnext[redis]'") from error
        tls = {"ssl_ca_certs": self.ca_file} if self.ca_file else {}
        secrets = {
            "username": _secret("user_env", self.user_env),
            "password": _secret("password_env", self.password_env),
        }
        try:
            client = redis.Redis.from_url(
                self.url,
                protocol=2,  # supported by all server versions
                retry=Retry(NoBackoff(), 0),  # the session retries; retries here would multiply with those of connect
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=ANSWER_SECONDS,
                **secrets,
                **tls,
            )
            client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)  # validates the options
        except (ValueError, TypeError) as error:
            raise SinkError(f"storage.redis.url cannot be used ({error}): correct it, then run again") from error
        return client


class Session:
    """A session that sends commands to one server."""

    def __init__(self, server: RedisServer, client: Any) -> None:
        from redis.backoff import ExponentialBackoff
        from redis.retry import Retry

        self._server, self._client = server, client
        backoff = ExponentialBackoff(cap=MAX_WAIT_SECONDS, base=FIRST_WAIT_SECONDS / 2)
        self._retry = Retry(backoff, _retries(server.retry_seconds))

    def do(self, *command: Any) -> Any:
        """Return the answer to a command, as redis-py parses it. Raises SinkError after `retry_seconds` without an
        answer, and immediately if the server refuses the command."""
        from redis import exceptions as errors

        where = f"Redis at {self._server.url}"
        try:
            return self._retry.call_with_retry(lambda: self._once(command), lambda _: None)
        except (errors.ConnectionError, errors.TimeoutError) as error:
            raise SinkError(
                f"{where} did not answer for {self._server.retry_seconds:g} s: {error}; start it or correct "
                "storage.redis.url, then run again"
            ) from error
        except errors.OutOfMemoryError as error:
            raise SinkError(
                f"{where} is full: its maxmemory is reached; increase it, or load less ([storage.redis] vectors, "
                "scores; [neighbours] k), then run again"
            ) from error
        except errors.RedisError as error:
            raise SinkError(f"{where} refuses {command[0]}: {error}") from error

    def _once(self, command: tuple[Any, ...]) -> Any:
        from redis import exceptions as errors

        try:
            return self._client.execute_command(*command)
        except (errors.AuthenticationError, errors.AuthorizationError) as error:  # a retry cannot help
            raise SinkError(
                f"Redis at {self._server.url} refuses this user or password: {error}; set the environment variables "
                "that storage.redis.user_env and password_env name"
            ) from error


def _secret(setting: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise SinkError(
            f"storage.redis.{setting} = {safe_variable_name(variable)}: the environment variable is not set"
        )
    return os.environ[variable]


def _retries(seconds: float) -> int:
    """Return the number of retries for which the waits between them add up to `seconds`."""
    waited, wait, count = 0.0, FIRST_WAIT_SECONDS, 0
    while waited < seconds:
        waited, wait, count = waited + wait, min(2 * wait, MAX_WAIT_SECONDS), count + 1
    return count
