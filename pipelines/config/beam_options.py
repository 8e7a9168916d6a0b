"""Beam's options, from a runner config file and from the command line, which takes precedence.

This is the only module that uses Beam's option classes.
"""

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
from pipelines.config.jobs import OptionError

EMBEDDED = "FnApiRunner"  # Beam's name for the runner on this machine
_FLINK, _DATAFLOW = "FlinkRunner", "DataflowRunner"
# Options that a runner requires, checked before anything starts. One of each group is enough.
_REQUIRED: dict[str, dict[tuple[str, ...], str]] = {
    _FLINK: {("job_endpoint",): "HOST:PORT of Beam's job server, localhost:8099 after make flink-up"},
    _DATAFLOW: {
        ("project",): "id of the Google Cloud project that is billed",
        ("region",): "region of the workers, preferably that of the bucket, such as europe-west1",
        ("temp_location",): "gs://BUCKET/FOLDER for staged and temporary files",
        ("sdk_container_image", "setup_file"): "a container image for workers with watchnext installed, or ./setup.py",
    },
}
_RUNNERS = ("DirectRunner", _FLINK, _DATAFLOW, "PortableRunner", EMBEDDED)
_STAGES = [stage for stage in FOLDERS if stage != "train"]  # train runs TensorFlow without Beam
_ADDRESSES = ("job_endpoint", "flink_master")
_NEGATED = ("use_public_ips", "save_main_session")  # options for which Beam has a `--no_` flag


class _Options(PipelineOptions):
    """Options that cache their views, which share all values. Beam requests a view at each step of a graph, 700 times
    in a stage, and parses all options each time, which takes 0.3 s."""

    def view_as(self, cls: type[PipelineOptions]) -> PipelineOptions:
        views = self.__dict__.setdefault("_kept_views", {})
        if cls not in views:
            views[cls] = super().view_as(cls)
        return views[cls]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_kept_views"}


def pipeline_options(config: str | None, flags: Sequence[str], stage: str = "", job_name: str = "") -> PipelineOptions:
    """Return the options of a runner config (a TOML file, or the name of a built-in one) and of Beam `flags`.

    A table of the config that is named after a stage applies only to that stage and overrides the options above the
    tables. The default is the embedded runner. `DirectRunner` also means the embedded runner, because Beam's own
    `DirectRunner` searches for other runners online. `FlinkRunner` submits to `job_endpoint`; Beam's own would download
    a job server. A job for `DataflowRunner` is pickled without the main session. job_name: used if no name is set.

    The options also configure Beam's file systems in this process (credentials, endpoints). Raises OptionError for an
    unknown option, with the nearest known name, and for a missing option that the runner requires.
    """
    values = _collect(config, flags, stage)
    if job_name:
        values.setdefault("job_name", job_name)
    if values["runner"] == _FLINK:
        values["runner"] = "PortableRunner"
    if values["runner"] == _DATAFLOW:
        values.setdefault("save_main_session", False)
    options = _Options.from_dictionary(values)
    for name in (name for name, value in values.items() if value is False):
        _turn_off(options, name)
    FileSystems.set_options(options)
    return _accepted_by_dataflow(options) if values["runner"] == _DATAFLOW else options


def runner_name(config: str | None, flags: Sequence[str]) -> str:
    """Return the name of the requested runner without its module; the embedded runner has Beam's name `EMBEDDED`."""
    return str(_collect(config, flags)["runner"])


def _collect(config: str | None, flags: Sequence[str], stage: str = "") -> dict[str, Any]:
    """Return the options that are set, validated, including `runner`."""
    from_config = _of_stage(_read(config), stage) if config else {}
    options = _parse([*_to_flags(from_config), *_check_words(flags)])
    _check_known(*from_config, *options)
    in_flags = {flag.removeprefix("--").partition("=")[0] for flag in flags}
    on_by_default = {name for name, value in PipelineOptions([]).get_all_options().items() if value is True}
    turned_off = {name for name, value in from_config.items() if value is False} & on_by_default - in_flags
    options |= dict.fromkeys(turned_off, False)
    runner = _known_runner(str(options.get("runner") or "DirectRunner").rsplit(".", 1)[-1])
    options["runner"] = EMBEDDED if runner == "DirectRunner" else runner
    missing = {names: text for names, text in _REQUIRED.get(runner, {}).items() if not any(map(options.get, names))}
    if missing:
        needed = "; ".join(f"--{' or --'.join(names)}: {text}" for names, text in missing.items())
        raise OptionError(f"{runner} requires {needed}; give it as a flag or in the runner config")
    return options


def _turn_off(options: PipelineOptions, name: str) -> None:
    """Set an option to false; `from_dictionary` ignores false values except for two options."""
    for view in PipelineOptions.__subclasses__():
        try:
            setattr(options.view_as(view), name, False)
        except AttributeError:  # an option of another view
            continue
        return


def _known_runner(name: str) -> str:
    """Return the full name of a runner; case and the ending "Runner" do not matter. Raises OptionError if unknown."""
    for runner in _RUNNERS:
        if name.lower() in (runner.lower(), runner.lower().removesuffix("runner")):
            return runner
    try:
        create_runner(name)  # Beam has further runners, such as Spark's
        return name
    except (ValueError, ImportError, AttributeError) as error:
        nearest = difflib.get_close_matches(name, _RUNNERS, 1, cutoff=0)[0]
        raise OptionError(f"Beam has no runner {name}; did you mean {nearest}?") from error


def _of_stage(config: dict[str, Any], stage: str) -> dict[str, Any]:
    """Return a config's options for one stage, or, without a stage, the options common to all stages. Raises
    OptionError for a mistake in the table of any stage."""
    tables = {name: value for name, value in config.items() if isinstance(value, dict)}
    common = {name: value for name, value in config.items() if name not in tables}
    for name, table in tables.items():
        if name not in _STAGES:
            nearest = difflib.get_close_matches(name, _STAGES, 1, cutoff=0)[0]
            raise OptionError(f"[{name}] in a runner config is not a stage that Beam runs; did you mean [{nearest}]?")
        if "runner" in table:
            raise OptionError(f"[{name}] in a runner config sets a runner: set one runner above the tables")
        _check_known(*table, *_parse(list(_to_flags(table))))
    return common | tables.get(stage, {})


def _check_known(*names: str) -> None:
    known = PipelineOptions([]).get_all_options()
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, 1, cutoff=0)
            raise OptionError(f"Beam has no option {name}; did you mean {nearest[0]}?")


def _accepted_by_dataflow(options: PipelineOptions) -> PipelineOptions:
    """Return the options. Raises OptionError with Beam's messages if they are not valid for Dataflow.

    Runs only some of Beam's checks: the full validation sends requests to the cloud, and creates a missing bucket.
    """
    from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner

    check = PipelineOptionsValidator(options, DataflowRunner())
    cloud, workers = options.view_as(GoogleCloudOptions), options.view_as(WorkerOptions)
    errors = [*check.validate_gcs_path(cloud, "temp_location"), *check.validate_cloud_options(cloud)]
    if errors := [*errors, *check.validate_num_workers(workers)]:
        raise OptionError("; ".join(errors))
    return options


def endpoints(config: str | None, flags: Sequence[str]) -> dict[str, str]:
    """Return option name -> HOST:PORT of the options that name a server of the runner."""
    options = pipeline_options(config, flags).get_all_options()
    addresses = {name: str(options.get(name) or "") for name in _ADDRESSES}
    return {name: address for name, address in addresses.items() if re.fullmatch(r"[\w.-]+:\d+", address)}


def _read(config: str) -> dict[str, Any]:
    """Parse a config file: at this path, or the built-in one of this name."""
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
    """Return the options that flags set. Raises OptionError for a value of the wrong type, for which Beam would exit.

    Redirects only the standard error, because other threads of doctor may print findings to the standard output.
    """
    if help_flags := [flag for flag in flags if flag in ("-h", "--help")]:
        raise OptionError(f"a Beam option cannot be read: give {help_flags[0]} without other options")
    with redirect_stderr(io.StringIO()) as written:
        try:
            options = PipelineOptions(list(flags))
            return dict(options.get_all_options(retain_unknown_options=True, drop_default=True))
        except (SystemExit, ValueError) as error:  # ValueError: an option without a name
            lines = written.getvalue().strip().splitlines() or [f"error: {error}"]
            raise OptionError(f"a Beam option cannot be read: {lines[-1].partition('error: ')[2]}") from error


def _check_words(flags: Sequence[str]) -> Sequence[str]:
    """Return the flags. Raises OptionError for a word that is not part of a flag, which Beam would ignore silently."""
    for before, word in zip(["", *flags], flags, strict=False):
        if not word.startswith("-") and (not before.startswith("--") or "=" in before):
            raise OptionError(f"{word!r} is neither an option nor the value of an option")
    return flags


def _to_flags(table: dict[str, Any]) -> Iterator[str]:
    """Yield a config's table as flags. Beam has none for most false values; `_collect` adds those it needs."""
    for name, value in table.items():
        if isinstance(value, bool):
            yield from [f"--{name}"] if value else [f"--no_{name}"] if name in _NEGATED else []
        else:
            yield from (f"--{name}={one}" for one in (value if isinstance(value, list) else [value]))
