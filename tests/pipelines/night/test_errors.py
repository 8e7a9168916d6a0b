from __future__ import annotations

import pickle
import signal
import traceback
from functools import partial

import grpc
import pytest
from apache_beam.io.filesystem import BeamIOError

from pipelines.base import manifest
from pipelines.base.process_signals import Stopped
from pipelines.config.jobs import JobError, OptionError
from pipelines.night.errors import GateError, StageError, exit_code, is_disk_full, run_command, user_message
from trainer.errors import TrainingError
from transforms.logs.readers import LogError, LogSettingError


def throw(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (JobError("neighbours.k = -3"), 2, "watchnext: neighbours.k = -3\n"),
        (OptionError("no option x"), 2, "watchnext: no option x\n"),
        (LogSettingError("no column x"), 2, "watchnext: no column x\n"),
        (LogError("a day is late"), 1, "watchnext: a day is late\n"),
        (StageError("too many"), 1, "watchnext: too many\n"),
        (GateError("recall is 0.1"), 3, "watchnext: recall is 0.1\n"),
        (TrainingError("not one label"), 1, "watchnext: not one label\n"),
        (manifest.ManifestError("damaged"), 1, "watchnext: damaged\n"),
        (PermissionError(13, "Permission denied", "/root"), 1, "watchnext: PermissionError: [Errno 13] "),
        (Stopped(signal.SIGTERM), 143, "watchnext: stopped by SIGTERM; nothing was published\n"),
    ],
)
def test_mistakes_become_one_message_and_an_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHNEXT_TRACEBACK", raising=False)
    assert run_command(partial(throw, error)) == code
    assert capsys.readouterr().err.startswith(message)


def test_the_message_goes_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    messages: list[str] = []
    assert run_command(partial(throw, StageError("too many")), messages.append) == 1
    assert messages == ["too many"] and capsys.readouterr().err == ""


def test_a_mistake_is_found_in_what_a_runner_made_of_it() -> None:
    assert user_message(as_beam_has_it(StageError("too many"))) == "too many"


@pytest.mark.parametrize("kind", [StageError, OSError])
def test_a_message_has_no_step_name_of_beam(kind: type[Exception]) -> None:
    message = user_message(kind("a.parquet: not whole [while running 'Read/Parse']")) or ""
    assert message.removeprefix("OSError: ") == "a.parquet: not whole"


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run_command(partial(throw, KeyError("a defect")))
    monkeypatch.setenv("WATCHNEXT_TRACEBACK", "1")
    with pytest.raises(StageError):
        run_command(partial(throw, StageError("wanted in full")))


def as_beam_has_it(error: Exception) -> Exception:
    wrapped = RuntimeError("a step failed")
    wrapped.__cause__ = error
    return wrapped


def in_the_context_of_a_bug(error: Exception) -> Exception:
    bug = KeyError("a defect")
    bug.__context__ = error
    return bug


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(28, "No space left on device", "runs/x"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (as_beam_has_it(OSError(28, "No space left on device")), True),
        (RuntimeError("ResourceExhaustedError: runs/part.data; No space left on device [Op:SaveV2]"), True),
        (RuntimeError("ResourceExhaustedError: OOM when allocating tensor"), False),
        (OSError(13, "Permission denied"), False),
        (in_the_context_of_a_bug(OSError(28, "No space left on device")), False),
    ],
    ids=str,
)
def test_a_full_disk_is_found_whichever_library_met_it(error: Exception, is_full: bool) -> None:
    assert is_disk_full(error) is is_full


TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 3, in process
transforms.logs.readers.LogError: a.csv: the watches table lacks 'time'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "common.py", line 9, in _reraise_augmented
{last} [while running 'Read watches/Parse']

"""


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (
            "transforms.logs.readers.LogError: a.csv: the watches table lacks 'time'",
            "a.csv: the watches table lacks 'time'",
        ),
        ("OSError: b cannot be written: File too large", "OSError: b cannot be written: File too large"),
        ("PermissionError: [Errno 13] no", "PermissionError: [Errno 13] no"),
        ("pipelines.night.errors.StageError: one: two", "one: two"),
    ],
)
def test_the_error_is_extracted_from_the_traceback_of_a_remote_worker(last: str, said: str) -> None:
    assert user_message(RuntimeError(TRACEBACK.format(last=last))) == said


SEVERAL_LINES = "job.toml: two mistakes:\n  k = -3\n\nhidden: [0] is no width"


@pytest.mark.parametrize(
    "text",
    [
        TRACEBACK.format(last=f"pipelines.config.jobs.JobError: {SEVERAL_LINES}"),
        f'Traceback (most recent call last):\n  File "x.py", line 1, in y\npipelines.jobs.JobError: {SEVERAL_LINES}\n',
        f'Error: Traceback (most recent call last):\n  File "x.py"\npipelines.jobs.JobError: {SEVERAL_LINES}\n\n'
        "\tat a.B.c(B.java:1)\nCaused by: java.lang.Exception: no\n",
        f'Traceback (most recent call last):\n  File "x.py", line 1\npipelines.jobs.JobError: {SEVERAL_LINES}\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "x.py", line 9\nValueError: of the runner\n',
    ],
    ids=["step", "end", "java", "cause"],
)
def test_all_lines_of_a_message_come_back_from_the_text_of_a_traceback(text: str) -> None:
    assert user_message(RuntimeError(text)) == SEVERAL_LINES


@pytest.mark.parametrize(
    "error",
    [LogSettingError("no column x"), JobError("k = -3"), OptionError("no option x")],
    ids=lambda error: type(error).__name__,
)
def test_a_wrong_setting_exits_2_however_a_worker_passes_it_on(error: Exception) -> None:
    kind = f"{type(error).__module__}.{type(error).__name__}"
    as_text = RuntimeError(TRACEBACK.format(last=f"{kind}: {error}"))
    for passed_on in (pickle.loads(pickle.dumps(error)), as_beam_has_it(error), as_text):
        assert (exit_code(passed_on), user_message(passed_on)) == (2, str(error))
    assert exit_code(RuntimeError(TRACEBACK.format(last=f"transforms.logs.readers.LogError: {error}"))) == 1


def bug_while_handling(error: Exception, step: str = "") -> Exception:
    """A bug in code that reacts to an expected error; with the step of a worker, the copy that Beam makes of it."""
    try:
        try:
            raise error
        except Exception:
            raise KeyError("a bug")  # noqa: B904
    except KeyError as bug:
        if not step:
            return bug
        try:
            raise KeyError(f"a bug{step}")
        except KeyError as copy:
            return copy


@pytest.mark.parametrize("error", [FileNotFoundError(2, "No such file"), StageError("too many")])
@pytest.mark.parametrize("step", ["", " [while running 'Read']"])
def test_an_error_that_was_being_handled_hides_no_bug(error: Exception, step: str) -> None:
    bug = bug_while_handling(error, step)
    assert user_message(bug) is None and exit_code(bug) == 1
    assert user_message(RuntimeError("".join(traceback.format_exception(bug)))) is None
    with pytest.raises(KeyError):
        run_command(partial(throw, bug))


def test_a_copy_that_beam_makes_of_an_error_counts_as_the_error() -> None:
    try:
        try:
            raise BeamIOError("cannot be listed", {"gs://a": 403})
        except BeamIOError as error:
            raise RuntimeError(f"BeamIOError: {error} [while running 'Read']")  # noqa: B904
    except RuntimeError as copy:
        assert (user_message(copy) or "").startswith("BeamIOError: cannot be listed")
        text = "".join(traceback.format_exception(copy))
        assert (user_message(RuntimeError(text)) or "").startswith("BeamIOError: cannot")


def test_an_unforeseen_error_is_none_even_if_its_text_looks_like_one() -> None:
    assert user_message(RuntimeError("LogError: a.csv: gone")) is None
    assert user_message(RuntimeError("Traceback (most recent call last):\n  a\nKeyError: 'x'")) is None


class GoneError(grpc.RpcError, grpc.Call):  # as grpc's own, which nobody can make
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "connection refused"


GoneError.__abstractmethods__ = frozenset()


def test_a_job_server_that_is_gone_is_one_message() -> None:
    assert user_message(GoneError()) == (
        "the runner's job server does not answer (UNAVAILABLE: connection refused); no partial results were kept; "
        "check the runner, then rerun the command"
    )


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("Cancelled by a person\nat noon", "Cancelled by a person"),
        (
            "org.apache.flink.util.FlinkException: Job failed\n\tat a.B.c(B.java:1)\nCaused by: a.b.Recovery: no\n"
            "Caused by: a.b.TimeoutException: The heartbeat of TaskManager timed out.\n\t... 3 more\n",
            "TimeoutException: The heartbeat of TaskManager timed out",
        ),
        ("org.apache.flink.JobMasterException: TaskManager is gone.", "JobMasterException: TaskManager is gone"),
    ],
)
def test_the_message_of_a_failed_job_is_its_first_cause(said: str, cause: str) -> None:
    found = user_message(RuntimeError(f"Pipeline night_1 failed in state FAILED: {said}"))
    assert found == (
        f"the runner ended the job in state FAILED: {cause}; no partial results were kept; check the runner, then "
        "rerun the command"
    )


def test_a_mistake_is_found_in_what_flink_made_of_it() -> None:
    said = (
        "Pipeline night_1 failed in state FAILED: java.lang.RuntimeException: Error received from SDK harness for "
        'instruction 5: Traceback (most recent call last):\n  File "x.py", line 1, in y\n'
        "transforms.logs.readers.LogError: watches.csv: no column user_id [while running 'Read']\n\n"
        "\tat a.B.c(B.java:1)\n"
        "Caused by: java.lang.Exception: The user defined code failed\n"
    )
    assert user_message(RuntimeError(said)) == "watches.csv: no column user_id"


def cycle() -> Exception:
    """An error that is its own cause's cause."""
    first, second = ValueError("first"), RuntimeError("second")
    first.__cause__, second.__context__ = second, first
    return first


def test_errors_that_cause_each_other_are_read_once() -> None:
    itself = ValueError("alone")
    itself.__cause__ = itself
    assert user_message(itself) is None and user_message(cycle()) is None
    known = cycle()
    assert known.__cause__ is not None
    known.__cause__.__cause__ = StageError("too many")
    assert user_message(known) == "too many"
