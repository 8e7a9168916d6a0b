from __future__ import annotations

import socket
from pathlib import Path

import pytest
from findings import only, request_of

from pipelines.checks import runner as doctor_runner
from pipelines.checks.findings import Finding
from pipelines.config.beam_options import endpoints


def found_with(folder: Path, *flags: str, seconds: float = 120.0) -> Finding:
    return only(doctor_runner.runner(request_of(folder, flags=flags, runner_seconds=seconds)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_job_of_ten_elements_ends_well_on_this_machine(tmp_path: Path) -> None:
    found = found_with(tmp_path)
    assert found.state == "ok" and found.what.startswith("FnApiRunner: a job of 10 elements took ")


def test_a_lost_element_is_noticed() -> None:
    with pytest.raises(ValueError, match="9 elements arrived"):
        doctor_runner.check_count(9)
    doctor_runner.check_count(10)


def test_an_address_without_an_answer_starts_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_runner, "_run", lambda *_: pytest.fail("a job was begun"))
    address = f"127.0.0.1:{free_port()}"
    found = found_with(tmp_path, "--runner=PortableRunner", f"--job_endpoint={address}")
    assert found.state == "problem" and f"job_endpoint = {address}: no answer (" in found.what
    assert found.fix == "start the server, or correct the address"


def test_an_address_that_answers_is_asked_for_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_runner, "_run", lambda *_: (0, ""))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        found = found_with(tmp_path, "--runner=PortableRunner", f"--job_endpoint={address}")
    assert found.state == "ok" and found.what.startswith("PortableRunner: a job of 10 elements took ")


def test_a_job_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_runner, "_run", lambda *_: (1, "Traceback:\n  ...\nRuntimeError: no workers\n"))
    found = found_with(tmp_path)
    assert (found.state, found.what) == (
        "problem",
        "FnApiRunner: a job of 10 elements failed: RuntimeError: no workers",
    )


def test_a_job_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    found = found_with(tmp_path, seconds=0.05)
    assert found.state == "problem" and "did not end within 0 s" in found.what and "--runner-timeout" in found.fix


def test_a_failed_process_returns_its_code_and_output() -> None:
    code, said = doctor_runner._run(["python3", "-c", "import sys; sys.exit('not today')"], 60.0)
    assert (code, said) == (1, "not today\n")


def test_addresses_are_those_the_options_spell_out(tmp_path: Path) -> None:
    config = tmp_path / "flink.toml"
    config.write_text('runner = "PortableRunner"\nflink_master = "flink:8081"\n')
    assert endpoints(None, []) == {}
    assert endpoints(None, ["--runner=PortableRunner", "--job_endpoint=here:8099"]) == {"job_endpoint": "here:8099"}
    assert endpoints(str(config), []) == {"flink_master": "flink:8081"}
    assert endpoints(str(config), ["--flink_master=[auto]"]) == {}
