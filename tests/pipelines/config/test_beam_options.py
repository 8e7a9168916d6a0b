from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import S3Options, StandardOptions
from nights import DATAFLOW

from pipelines.config.beam_options import pipeline_options, runner_name
from pipelines.config.jobs import OptionError


def options_of(config: str | None, *flags: str) -> dict[str, object]:
    return dict(pipeline_options(config, flags).get_all_options(drop_default=True))


def config_of(folder: Path, text: str) -> str:
    path = folder / "runner.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("runner", ["", "=DirectRunner", " DirectRunner", "=apache_beam.runners.DirectRunner"])
def test_the_embedded_runner_is_the_default_and_what_direct_runner_means(runner: str) -> None:
    flags = f"--runner{runner}".split() if runner else []
    assert options_of(None, *flags) == {"runner": "FnApiRunner"} and runner_name(None, flags) == "FnApiRunner"


@pytest.mark.parametrize(
    ("given", "nearest"), [("FlinkRuner", "FlinkRunner"), ("flinkrunners", "FlinkRunner"), ("my.own.Runner", "")]
)
def test_a_runner_that_beam_does_not_have_is_named_with_the_nearest(given: str, nearest: str) -> None:
    name = given.rsplit(".", maxsplit=1)[-1]
    with pytest.raises(OptionError, match=f"Beam has no runner {name}; did you mean {nearest}"):
        runner_name(None, [f"--runner={given}"])


@pytest.mark.parametrize("given", ["flink", "Flink", "flinkrunner", "FlinkRunner"])
def test_a_runner_has_the_short_names_that_beam_takes(given: str) -> None:
    assert runner_name(None, [f"--runner={given}", "--job_endpoint=localhost:8099"]) == "FlinkRunner"


def test_a_runner_of_beam_s_that_this_project_does_not_know_is_taken() -> None:
    assert runner_name(None, ["--runner=SparkRunner"]) == "SparkRunner"


def test_a_config_that_comes_with_watchnext_goes_by_its_name() -> None:
    assert options_of("direct") == options_of("direct.toml") == {"runner": "FnApiRunner"}


def test_the_command_line_wins_over_the_config_file(tmp_path: Path) -> None:
    config = config_of(tmp_path, 'runner = "SparkRunner"\nparallelism = 3\njob_name = "night"\n')
    given = options_of(config, "--parallelism=5", "--runner=PortableRunner")
    assert given == {"runner": "PortableRunner", "parallelism": 5, "job_name": "night"}


def test_lists_and_truth_values_of_a_config_reach_beam(tmp_path: Path) -> None:
    text = 'runner = "SparkRunner"\nexperiments = ["a", "b"]\nstreaming = true\nupdate=false\nuse_public_ips=false\n'
    given = options_of(config_of(tmp_path, text))
    assert given == {"runner": "SparkRunner", "experiments": ["a", "b"], "streaming": True, "use_public_ips": False}


@pytest.mark.parametrize("flags", ["--runner=FlinkRunner", "--runner=FlinkRunner --job_endpoint=", ""])
def test_flink_requires_its_job_server(flags: str) -> None:
    with pytest.raises(OptionError, match="FlinkRunner requires --job_endpoint"):
        pipeline_options(None if flags else "flink", flags.split())


def test_flink_is_a_portable_job_at_the_endpoint() -> None:
    flags = ("--runner=FlinkRunner", "--job_endpoint=here:8099")
    assert options_of(None, *flags) == {"runner": "PortableRunner", "job_endpoint": "here:8099"}
    assert runner_name(None, flags) == "FlinkRunner"


def test_the_config_of_flink() -> None:
    given = options_of("flink", "--job_endpoint=localhost:8099", "--parallelism=8")
    assert given == {
        "runner": "PortableRunner",
        "job_endpoint": "localhost:8099",
        "parallelism": 8,
        "sdk_worker_parallelism": "2",
        "environment_type": "EXTERNAL",
        "environment_config": "localhost:50000",
        "environment_cache_millis": "120000",
    }


@pytest.mark.parametrize(
    "given", ["--paralelism=2", "--paralelism", *(f"paralelism = {v}" for v in ("2", "true", "false"))]
)
def test_an_unknown_option_is_named_with_the_nearest_known_one(tmp_path: Path, given: str) -> None:
    is_flag = given.startswith("--")
    config, flags = (None, [given]) if is_flag else (config_of(tmp_path, f"{given}\n"), [])
    with pytest.raises(OptionError, match="no option paralelism; did you mean parallelism"):
        pipeline_options(config, flags)


@pytest.mark.parametrize("flags", [["2026-11-21"], ["--runner=FnApiRunner", "extra"], ["--runner", "FnApiRunner", "x"]])
def test_a_word_that_belongs_to_no_option_is_not_dropped(flags: list[str]) -> None:
    with pytest.raises(OptionError, match=f"'{flags[-1]}' is neither an option nor the value of an option"):
        pipeline_options(None, flags)


def test_a_value_of_the_wrong_type_is_one_message(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="argument --direct_num_workers: invalid int value: 'two'"):
        pipeline_options(None, ["--direct_num_workers=two"])
    assert capfd.readouterr().err == ""


def test_a_config_that_does_not_exist_is_named() -> None:
    with pytest.raises(OptionError, match="moon: no such runner config"):
        pipeline_options("moon", [])


CLOUD = DATAFLOW[1:]


def test_dataflow_names_all_missing_options_at_once() -> None:
    for config, flags in ((None, ("--runner=DataflowRunner",)), ("dataflow", ())):
        with pytest.raises(OptionError) as caught:
            pipeline_options(config, flags)
        assert re.findall(r"--(\w+)", str(caught.value)) == [
            *("project", "region", "temp_location", "sdk_container_image", "setup_file")
        ]


@pytest.mark.parametrize("missing", range(4))
def test_dataflow_names_each_missing_option(missing: int) -> None:
    names = ("project", "region", "temp_location", "sdk_container_image or --setup_file")
    with pytest.raises(OptionError, match=f"DataflowRunner requires --{names[missing]}: [^;]*; give it"):
        pipeline_options("dataflow", [flag for flag in CLOUD if flag != CLOUD[missing]])


@pytest.mark.parametrize("last", [CLOUD[3], "--setup_file=./setup.py"])
def test_a_dataflow_job_never_pickles_the_main_program(last: str) -> None:
    given = options_of(None, "--runner=DataflowRunner", *CLOUD[:3], last)
    assert given["runner"] == "DataflowRunner" and given["save_main_session"] is False


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--temp_location=/tmp/here", r"Invalid GCS path \(/tmp/here\), given for the option: temp_location"),
        ("--project=12345", r"Invalid Project ID \(12345\)"),
        ("--num_workers=100", r"num_workers \(100\) cannot exceed max_num_workers \(64\)"),
    ],
)
def test_options_that_dataflow_refuses_are_errors_before_a_job_starts(flag: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline_options("dataflow", [*CLOUD, flag])


def test_a_stage_s_table_wins_over_what_holds_for_all_and_the_command_line_over_both(tmp_path: Path) -> None:
    text = 'runner = "SparkRunner"\nparallelism = 3\n[index]\nparallelism = 5\nexperiments = ["a"]\n'
    config = config_of(tmp_path, text)

    def of(stage: str, *flags: str) -> dict[str, object]:
        return dict(pipeline_options(config, flags, stage).get_all_options(drop_default=True))

    assert of("index") == {"runner": "SparkRunner", "parallelism": 5, "experiments": ["a"]}
    assert of("examples") == of("") == {"runner": "SparkRunner", "parallelism": 3}
    assert of("index", "--parallelism=7")["parallelism"] == 7


def test_a_job_s_name_is_the_one_that_is_given() -> None:
    assert pipeline_options(None, [], "index", "watchnext-index").get_all_options()["job_name"] == "watchnext-index"
    given = pipeline_options(None, ["--job_name=mine"], "index", "watchnext-index")
    assert given.get_all_options()["job_name"] == "mine"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("[neighbors]", r"\[neighbors\] in a runner config is not a stage that Beam runs; did you mean \[neighbours\]"),
        ("[train]", r"\[train\] in a runner config is not a stage that Beam runs"),
        ('[index]\nrunner = "DirectRunner"', r"\[index\] in a runner config sets a runner"),
        ("[index]\nparalelism = 2", "no option paralelism; did you mean parallelism"),
        ('[index]\nparallelism = "two"', "argument --parallelism: invalid int value: 'two'"),
    ],
)
def test_a_mistake_in_the_table_of_any_stage_is_an_error_of_every_stage(
    tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        pipeline_options(config_of(tmp_path, f'runner = "SparkRunner"\n{table}\n'), [], "ingest")


def test_views_are_kept_share_values_and_stay_behind_when_pickled() -> None:
    options = pipeline_options(None, ["--s3_region_name=eu-west-1"])
    view = options.view_as(StandardOptions)
    assert options.view_as(StandardOptions) is view
    view.streaming = True
    assert options.get_all_options()["streaming"] is True
    assert options.view_as(S3Options).s3_region_name == "eu-west-1"
    copy = pickle.loads(pickle.dumps(options))
    assert copy.view_as(S3Options).s3_region_name == "eu-west-1"
    assert copy.view_as(StandardOptions) is not view
    assert "_kept_views" not in options.__getstate__()


def test_file_systems_go_by_the_options() -> None:
    options = pipeline_options(None, ["--s3_endpoint_url=http://localhost:1"])
    assert FileSystems._pipeline_options is options
    pipeline_options(None, [])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"runner = ", b""], ids=["not UTF-8", "not TOML", "a folder"])
def test_a_config_that_cannot_be_read_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "runner.toml"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(OptionError, match=f"{path}: cannot be read as TOML: "):
        pipeline_options(str(path), [])


def test_a_config_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert options_of(config_of(tmp_path, "\ufeffjob_name = 'x'")) == {"runner": "FnApiRunner", "job_name": "x"}


@pytest.mark.parametrize("flag", ["--=3", "--help"])
def test_a_flag_that_ends_beams_own_parser_is_a_mistake(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(OptionError, match="a Beam option cannot be read: "):
        pipeline_options(None, [flag])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["pipeline_type_check", "direct_runner_use_stacked_bundle", "enable_streaming_engine"])
def test_an_option_that_is_on_by_default_can_be_turned_off(tmp_path: Path, name: str) -> None:
    """Also one that Beam has no flag to turn off; the command line wins over the config."""
    config = config_of(tmp_path, f"{name} = false\n")
    assert pipeline_options(None, []).get_all_options()[name] is True
    options = pipeline_options(config, [])
    for given in (options, pickle.loads(pickle.dumps(options))):
        assert given.get_all_options()[name] is False
    if name == "enable_streaming_engine":
        assert pipeline_options(config, [f"--{name}"]).get_all_options()[name] is True
    else:
        assert pipeline_options(None, [f"--no_{name}"]).get_all_options()[name] is False


def test_an_option_of_one_stage_can_be_turned_off(tmp_path: Path) -> None:
    config = config_of(tmp_path, "[ingest]\npipeline_type_check = false\n")
    checked = {
        stage: pipeline_options(config, [], stage).get_all_options()["pipeline_type_check"]
        for stage in ("ingest", "vocabulary")
    }
    assert checked == {"ingest": False, "vocabulary": True}
