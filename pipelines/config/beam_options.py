"""Beam's options: from a runner config file, then from the command line, which wins. The only module that knows
them."""

from __future__ import annotations

import difflib
import io
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from importlib import resources
from pathlib import Path
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.runner import create_runner

from pipelines.base.paths import FOLDERS

EMBEDDED = "FnApiRunner"  # Beam's name of the runner on this machine
_FLINK, _DATAFLOW = "FlinkRunner", "DataflowRunner"
# What only the person who runs a night can know, by runner: asked for before anything starts. One of several is enough.
_ASKED: dict[str, dict[tuple[str, ...], str]] = {
    _FLINK: {("job_endpoint",): "HOST:PORT of Beam's job server, localhost:8099 after make flink-up"},
    _DATAFLOW: {
        ("project",): "the id of the Google Cloud project that pays",
        ("region",): "where workers run, that of the bucket, such as europe-west1",
        ("temp_location",): "gs://BUCKET/FOLDER for what jobs stage and spill",
        ("sdk_container_image", "setup_file"): "the workers' image, with watchnext in it, or ./setup.py",
    },
}
_RUNNERS = ("DirectRunner", _FLINK, _DATAFLOW, "PortableRunner", EMBEDDED)
_STAGES = [stage for stage in FOLDERS if stage != "train"]  # which is TensorFlow's
_ADDRESSES = ("job_endpoint", "flink_master")
_NEGATED = ("use_public_ips", "save_main_session")  # what Beam turns off by a flag of its own


class _Options(PipelineOptions):
    """Options that keep their views, which share all values anyway. Beam asks for a view at each step of a graph, 700
    times in a stage, and parses anew each time: 0.3 s."""

    def view_as(self, cls: type[PipelineOptions]) -> PipelineOptions:
        views = self.__dict__.setdefault("_kept_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept_views"}


class OptionError(ValueError):
    """An option Beam does not know, or a runner config that cannot be read."""


def pipeline_options(config: str | None, flags: Sequence[str], stage: str = "", job_name: str = "") -> PipelineOptions:
    """Options of a runner config (a TOML file, or the name of one that comes with watchnext) and Beam `flags`.

    A table of the config named after a stage is for that stage alone, and wins over what stands above the tables. The
    embedded runner is the default, and what `DirectRunner` means: Beam's own `DirectRunner` first looks for another
    runner on the internet. `FlinkRunner` is a job at `job_endpoint`: Beam's own would download a job server. A job on
    `DataflowRunner` is pickled without the main program, which Beam would send. `job_name` is for where none is given.
    Raises OptionError with the nearest known name for an option that Beam does not know, and for one the runner needs.
    Beam's file systems of this process go by them from here on: keys, end points and the like.
    """
    given = _given(config, flags, stage)
    if job_name:
        given.setdefault("job_name", job_name)
    if given["runner"] == _FLINK:
        given["runner"] = "PortableRunner"
    if given["runner"] == _DATAFLOW:
        given.setdefault("save_main_session", False)
    options = _Options.from_dictionary(given)
    for name in (name for name, value in given.items() if value is False):
        _turn_off(options, name)
    FileSystems.set_options(options)
    return _accepted_by_dataflow(options) if given["runner"] == _DATAFLOW else options


def runner_name(config: str | None, flags: Sequence[str]) -> str:
    """The runner a person asked for, without the module it may be given with; the embedded one by Beam's name."""
    return str(_given(config, flags)["runner"])


def _given(config: str | None, flags: Sequence[str], stage: str = "") -> dict[str, Any]:
    """The options set, checked, and always a `runner`."""
    given = _of_stage(_read(config), stage) if config else {}
    parsed = _parse([*_flags(given), *_dashed(flags)])
    _check_known(*given, *parsed)
    named = {flag.removeprefix("--").partition("=")[0] for flag in flags}
    parsed |= {name: False for name, value in given.items() if value is False and name in _on() and name not in named}
    runner = _known_runner(str(parsed.get("runner") or "DirectRunner").rsplit(".", 1)[-1])
    parsed["runner"] = EMBEDDED if runner == "DirectRunner" else runner
    lacking = {names: what for names, what in _ASKED.get(runner, {}).items() if not any(map(parsed.get, names))}
    if lacking:
        needed = "; ".join(f"--{' or --'.join(names)}: {what}" for names, what in lacking.items())
        raise OptionError(f"{runner} needs {needed}; give it as a flag or in the runner config")
    return parsed


def _on() -> set[str]:
    """Beam's options whose default is true. For some there is no flag that turns them off."""
    return {name for name, value in PipelineOptions([]).get_all_options().items() if value is True}


def _turn_off(options: PipelineOptions, name: str) -> None:
    """Set an option to false, which `from_dictionary` does for two options alone."""
    for kind in PipelineOptions.__subclasses__():
        try:
            setattr(options.view_as(kind), name, False)
        except AttributeError:  # an option of another kind
            continue
        return


def _known_runner(name: str) -> str:
    """The full name of a runner, which Beam takes in any case and without its end. Raises OptionError for one that Beam
    does not have."""
    for runner in _RUNNERS:
        if name.lower() in (runner.lower(), runner.lower().removesuffix("runner")):
            return runner
    try:
        create_runner(name)  # Beam has more, as Spark's
        return name
    except (ValueError, ImportError, AttributeError) as error:
        nearest = difflib.get_close_matches(name, _RUNNERS, 1, cutoff=0)[0]
        raise OptionError(f"Beam has no runner {name}; did you mean {nearest}?") from error


def _of_stage(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """A config's options for one stage, or without a stage those that hold for all. OptionError for a mistake in the
    table of any stage."""
    tables = {name: value for name, value in config.items() if isinstance(value, dict)}
    common = {name: value for name, value in config.items() if name not in tables}
    for name, table in tables.items():
        if name not in _STAGES:
            nearest = difflib.get_close_matches(name, _STAGES, 1, cutoff=0)[0]
            raise OptionError(f"[{name}] in a runner config is no stage that Beam runs; did you mean [{nearest}]?")
        if "runner" in table:
            raise OptionError(f"[{name}] in a runner config names a runner: a night has one, above the tables")
        _check_known(*table, *_parse(list(_flags(table))))
    return common | tables.get(stage, {})


def _check_known(*names: str) -> None:
    known = PipelineOptions([]).get_all_options()
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, cutoff=0)
            raise OptionError(f"Beam knows no option {name}; did you mean {nearest[0]}?")


def _accepted_by_dataflow(options: PipelineOptions) -> PipelineOptions:
    """The options; OptionError with what Beam finds wrong with them as those of a job on Dataflow. Beam's own check of
    them all asks the cloud, and makes a bucket where the one given is none."""
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    check = PipelineOptionsValidator(options, DataflowRunner())
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    wrong = [*check.validate_gcs_path(cloud, "temp_location"), *check.validate_cloud_options(cloud)]
    if wrong := [*wrong, *check.validate_num_workers(workers)]:
        raise OptionError("; ".join(wrong))
    return options


def endpoints(config: str | None, flags: Sequence[str]) -> dict[str, str]:
    """Of the options that name a server of the runner by HOST:PORT, the name and the address."""
    given = pipeline_options(config, flags).get_all_options()
    found = {name: str(given.get(name) or "") for name in _ADDRESSES}
    return {name: address for name, address in found.items() if re.fullmatch(r"[\w.-]+:\d+", address)}


def _read(config: str) -> dict[str, Any]:
    """The table of a config file: of this path, or of this name among those that come with the package."""
    path = Path(config)
    if not path.exists():
        path = Path(str(resources.files("runner_configs") / f"{config.removesuffix('.toml')}.toml"))
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise OptionError(f"{config}: no such runner config") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionError(f"{path}: cannot be read as TOML: {error}") from error


def _parse(flags: Sequence[str]) -> dict[str, Any]:
    """The options that flags set. Beam ends the program if a value has the wrong type: an OptionError here.

    Only the standard error is redirected: other threads of doctor print findings on the standard output meanwhile.
    """
    if asked := [flag for flag in flags if flag in ("-h", "--help")]:
        raise OptionError(f"a Beam option cannot be read: {asked[0]} is a command's own: give it without other options")
    with redirect_stderr(io.StringIO()) as written:
        try:
            options = PipelineOptions(list(flags))
            return dict(options.get_all_options(retain_unknown_options=True, drop_default=True))
        except (SystemExit, ValueError) as error:  # ValueError: an option without a name
            lines = written.getvalue().strip().splitlines() or [f"error: {error}"]
            raise OptionError(f"a Beam option cannot be read: {lines[-1].partition('error: ')[2]}") from error


def _dashed(flags: Sequence[str]) -> Sequence[str]:
    """The flags; OptionError for a word that belongs to none, which Beam would drop in silence."""
    for before, word in zip(["", *flags], flags, strict=False):
        if not word.startswith("-") and (not before.startswith("--") or "=" in before):
            raise OptionError(f"{word!r} is neither an option nor the value of one")
    return flags


def _flags(given: dict[str, Any]) -> Iterator[str]:
    """A config's table as flags. Beam has no flag for most options that are false; `_given` adds those that are not
    false by default."""
    for name, value in given.items():
        if isinstance(value, bool):
            yield from [f"--{name}"] if value else [f"--no_{name}"] if name in _NEGATED else []
        else:
            yield from (f"--{name}={one}" for one in (value if isinstance(value, list) else [value]))
