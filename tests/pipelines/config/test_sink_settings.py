"""Settings of `[storage.redis]`: defaults, rules, and that no password is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from nights import write_job

from pipelines.config.jobs import Job, JobError, load_job
from pipelines.config.sink_settings import RedisSettings
from transforms.sinks import SinkError
from transforms.sinks.redis_server import RedisServer


def job_of(folder: Path, lines: str) -> Job:
    return load_job(str(write_job(folder, 'watches = "/logs/watches"', f"[storage.redis]\n{lines}\n")))


def error_of(folder: Path, lines: str) -> str:
    with pytest.raises(JobError) as caught:
        job_of(folder, lines)
    return str(caught.value)


def test_every_setting_but_the_url_has_a_default(tmp_path: Path) -> None:
    assert job_of(tmp_path, 'url = "redis://cache:6379/2"').storage.redis == RedisSettings(url="redis://cache:6379/2")


@pytest.mark.parametrize(
    "url",
    [
        "redis://ann:hunter2@cache/0",
        "rediss://:hunter2@cache:6379",
        "redis://cache?password=hunter2",
        "unix://a:hunter2@/s",
        "redis:/:hunter2@cache",
        "redis//ann:hunter2@cache:6379/0",
        "cache:hunter2@6379",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_shown(tmp_path: Path, url: str) -> None:
    message = error_of(tmp_path, f'url = "{url}"')
    assert "storage.redis.url must not contain a user or password: put them into environment variables" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('url = "http://cache"', "storage.redis.url = 'http://cache': url must be redis://HOST:PORT/DATABASE"),
        ('url = "redis:///0"', "url must be redis://HOST:PORT/DATABASE, rediss://HOST:PORT/DATABASE or unix:///PATH"),
        ('prefix = "a"', "storage.redis.url is missing and has no default"),
        ('url = "redis://c"\nprefix = "a*b"', "storage.redis.prefix = 'a*b': prefix may contain only letters"),
        ('url = "redis://c"\nexpire_hours = 0', "storage.redis.expire_hours = 0"),
        ('url = "redis://c"\nretry_seconds = -1', "storage.redis.retry_seconds = -1"),
        ('url = "redis://c"\nca_file = "ca.pem"', "ca_file needs TLS"),
        (
            'url = "redis://c"\nvector = true',
            "unknown setting storage.redis.vector; did you mean storage.redis.vectors?",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, lines: str, message: str) -> None:
    assert message in error_of(tmp_path, lines)


@pytest.mark.parametrize("url", ["redis://cache:6379x/0", "redis://cache:99999", "redis://ann:hunter2", "redis://[::1"])
def test_a_mistyped_port_is_named_and_the_url_is_not_shown(tmp_path: Path, url: str) -> None:
    message = error_of(tmp_path, f'url = "{url}"')
    assert "storage.redis.url must be redis://HOST:PORT/DATABASE" in message and "a PORT from 0 to 65535" in message
    assert url not in message and "hunter2" not in message


def test_the_authority_s_path_is_relative_to_the_job_file(tmp_path: Path) -> None:
    redis = job_of(tmp_path, 'url = "rediss://cache"\nca_file = "certs/ca.pem"').storage.redis
    assert redis is not None and redis.ca_file == str(tmp_path / "certs" / "ca.pem")


@pytest.mark.parametrize("setting", ["user_env", "password_env"])
def test_a_secret_in_place_of_the_name_of_its_variable_is_not_shown(tmp_path: Path, setting: str) -> None:
    for secret in ("redis://:hunter2@cache:6379", "hunter2!", "hunter 2"):
        message = error_of(tmp_path, f'url = "redis://c"\n{setting} = "{secret}"')
        assert f"storage.redis.{setting} must be the name of an environment variable" in message
        assert secret not in message and "hunter" not in message


def test_a_variable_that_is_not_set_is_named_but_what_may_be_a_secret_is_not() -> None:
    for name, shown in (
        ("THE_PASSWORD_2", "'THE_PASSWORD_2'"),
        ("hunter2", "(not shown: it may be the secret itself)"),
    ):
        with pytest.raises(SinkError) as caught, RedisServer(url="redis://c", password_env=name).session():
            pass
        assert str(caught.value) == f"storage.redis.password_env = {shown}: the environment variable is not set"
