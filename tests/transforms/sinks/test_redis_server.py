"""Sessions with a Redis server: retries, timeouts and error messages."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis_server import Server
from redis_server import server as server

from transforms.sinks import SinkError, redis_server
from transforms.sinks.redis_server import RedisServer


def test_command_returns_the_reply(server: Server) -> None:
    with RedisServer(url=server.url).session() as redis:
        assert redis.do("SET", "a", b"\xff") is True and redis.do("GET", "a") == b"\xff"
        assert redis.do("GET", "none") is None


def test_unreachable_server_is_an_error_with_its_address(tmp_path: Path) -> None:
    where = RedisServer(url=f"unix://{tmp_path}/none.sock", retry_seconds=0.3)
    message = r"^Redis at unix:///.*none.sock did not answer for 0.3 s: .*; start it or correct storage.redis.url"
    with where.session() as redis, pytest.raises(SinkError, match=message):
        redis.do("PING")


def test_command_is_retried_until_the_server_is_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            server.start()

    with RedisServer(url=server.url, retry_seconds=60).session() as redis:
        redis.do("SET", "a", "b")
        server.kill()
        monkeypatch.setattr("redis.retry.sleep", wait)
        assert redis.do("GET", "a") is None
    assert waits == pytest.approx([0.1, 0.2, 0.4])


@pytest.mark.parametrize(("seconds", "retries"), [(0, 0), (0.1, 1), (0.3, 2), (6.3, 6), (60, 17)])
def test_number_of_retries_covers_the_configured_time(seconds: float, retries: int) -> None:
    assert redis_server._retries(seconds) == retries


def test_refused_command_is_not_retried(server: Server) -> None:
    message = r"^Redis at unix:///.* refuses LPUSH: WRONGTYPE"
    with RedisServer(url=server.url).session() as redis:
        redis.do("SET", "a", "b")
        with pytest.raises(SinkError, match=message):
            redis.do("LPUSH", "a", "c")


def test_user_and_password_come_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.client.execute_command("ACL", "SETUSER", "ann", "on", ">secret", "~*", "+@all")
    server.client.execute_command("ACL", "SETUSER", "default", "off")
    place = RedisServer(url=server.url, user_env="THE_USER", password_env="THE_PASSWORD")
    message = r"storage.redis.user_env = 'THE_USER': the environment variable is not set"
    with pytest.raises(SinkError, match=message), place.session():
        pass
    monkeypatch.setenv("THE_USER", "ann")
    monkeypatch.setenv("THE_PASSWORD", "wrong")
    message = r"refuses this user or password: .*; set the environment variables"
    with place.session() as redis, pytest.raises(SinkError, match=message) as caught:
        redis.do("PING")
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("THE_PASSWORD", "secret")
    with place.session() as redis:
        assert redis.do("PING")


def test_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    message = r"\[storage.redis\] needs the package redis: pip install 'watchnext\[redis\]'"
    with pytest.raises(SinkError, match=message), RedisServer(url="redis://here").session():
        pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return a self-signed certificate and key for `localhost`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    signed = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    encoded = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(key.private_bytes(*encoded))
    return folder / "cert.pem", folder / "key.pem"


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(65_536):
            target.sendall(block)
    except OSError:  # the other side is gone
        pass


@pytest.fixture
def tls(server: Server, tmp_path: Path) -> Iterator[tuple[int, str]]:
    """Start a TLS proxy in front of a server; yield its port and certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    cert, key = certificate(tmp_path)
    context.load_cert_chain(cert, key)
    with socket.create_server(("127.0.0.1", 0)) as door:

        def attend() -> None:
            while True:
                try:
                    outside = context.wrap_socket(door.accept()[0], server_side=True)
                except ssl.SSLError:  # who is not trusted is not talked to
                    continue
                except OSError:
                    return
                inside = socket.socket(socket.AF_UNIX)
                inside.connect(server.socket)
                for pair in ((outside, inside), (inside, outside)):
                    threading.Thread(target=_copy, args=pair, daemon=True).start()

        threading.Thread(target=attend, daemon=True).start()
        yield door.getsockname()[1], str(cert)
        door.shutdown(socket.SHUT_RDWR)


def test_tls_trusts_only_the_configured_authority(tls: tuple[int, str]) -> None:
    port, authority = tls
    with RedisServer(url=f"rediss://localhost:{port}/0", ca_file=authority).session() as redis:
        assert redis.do("SET", "a", "b") and redis.do("GET", "a") == b"b"
    stranger = RedisServer(url=f"rediss://localhost:{port}/0", retry_seconds=0)
    with stranger.session() as redis, pytest.raises(SinkError, match="certificate verify failed"):
        redis.do("PING")


@pytest.mark.parametrize("url", ["redis://cache/0?socket_timeout=soon", "redis://cache/0?colour=red"])
def test_unknown_options_of_the_url_are_refused(url: str) -> None:
    message = r"storage\.redis\.url cannot be used \(.*(socket_timeout|colour)"
    with pytest.raises(SinkError, match=message), RedisServer(url=url).session():
        pass
