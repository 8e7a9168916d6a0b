"""The command `watchnext serve`: its arguments, where it listens, and its process."""

from __future__ import annotations

import re
import signal
import socket
import sys
import urllib.request
from pathlib import Path

import polars as pl
import pytest
from commands import watchnext
from nights import published_night, start_python, write_job

from pipelines import serve
from pipelines.base import command_lines
from pipelines.night.errors import StageError

LISTS = pl.DataFrame(
    {"user_id": ["ann"], "video_ids": [["v1"]], "scores": [[1.0]]},
    schema_overrides={"scores": pl.List(pl.Float32)},
)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = write_job(tmp_path, 'watches = "w"')
    published_night(path, LISTS)
    return path


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_the_page_is_served_until_it_is_interrupted(job: Path, host: str, warns: bool) -> None:
    with start_python("-m", "pipelines.serve", job, "--port", "0", "--host", host) as process:
        assert process.stderr
        printed = process.stderr.readline()
        if warns:
            assert printed.startswith("watchnext: warning: --host 0.0.0.0 lets others read") and "no login" in printed
            printed = process.stderr.readline()
        found = re.fullmatch(rf"watchnext: http://{host}:(\d+)/ shows what is published; Ctrl-C ends it\n", printed)
        assert found, printed
        with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/user?id=ann") as answer:
            assert b"/video?id=v1" in answer.read() and "server" not in answer.headers
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0 and process.stderr.read() == ""


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_wrong_port_is_named(port: str) -> None:
    done = watchnext("serve", "job.toml", "--port", port)
    assert done.code == 2 and f"--port must be from 0 to 65535, but is {port}" in done.message


def test_a_port_in_use_and_an_address_of_another_machine_are_errors_with_advice() -> None:
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"cannot listen on --host 127.0.0.1 --port {port} \(.* 0 for any free"):
            serve.listen("127.0.0.1", port)
    for host in ("192.0.2.1", "no such name", "\udcff", "x" * 300):
        with pytest.raises(StageError, match="an address of this machine as --host"):
            serve.listen(host, 0)


@pytest.mark.parametrize(
    ("address", "local"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("192.0.2.1", False)],
)
def test_only_this_machine_reaches_a_loopback_address(address: str, local: bool) -> None:
    assert serve.is_loopback(address) == local


def test_the_default_is_this_machine_only() -> None:
    with serve.listen(command_lines.HOST, 0) as listening:
        assert listening.family == socket.AF_INET and serve.is_loopback(listening.getsockname()[0])


@pytest.mark.parametrize("name", ["uvicorn", "starlette"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    job: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    for module in [module for module in sys.modules if module.startswith(("pipelines.page", f"{name}."))]:
        monkeypatch.delitem(sys.modules, module)
    done = watchnext("serve", job)
    assert done.code == 1 and f"needs the package {name}" in done.message
    assert "pip install 'watchnext[serve]'" in done.message
