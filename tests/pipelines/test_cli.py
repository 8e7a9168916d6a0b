from __future__ import annotations

import pytest

from pipelines import cli, lookup, nightly, simulate


@pytest.mark.parametrize("flag", ["-h", "--help", "help"])
def test_help_names_every_command(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([flag]) == 0
    shown = capsys.readouterr().err
    assert all(f"  {name}" in shown for name in ("simulate", "nightly", "lookup"))


@pytest.mark.parametrize("given", [[], ["nightlyy"], ["nightlyy", "--help"]])
def test_no_command_or_an_unknown_one_is_a_mistake(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(given) == 2
    assert "usage: watchnext COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "nearest"), [("nightyl", "nightly"), ("lokup", "lookup"), ("\x1b[1m", "")])
def test_an_unknown_command_names_the_nearest_one(given: str, nearest: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([given]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.startswith(f"watchnext: there is no command {given!r}; did you mean {nearest}")
    assert first.isprintable()


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("watchnext ")


def test_help_of_a_command_can_be_asked_for_in_front_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["help", "nightly"])
    assert caught.value.code == 0 and capsys.readouterr().out.startswith("usage: watchnext nightly ")


@pytest.mark.parametrize(("name", "module"), [("simulate", simulate), ("nightly", nightly), ("lookup", lookup)])
def test_a_command_gets_its_own_arguments(name: str, module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[list[str]] = []

    def main(arguments: list[str]) -> int:
        given.append(arguments)
        return 7

    monkeypatch.setattr(module, "main", main)
    assert cli.main([name, "job.toml", "--date", "2026-11-21"]) == 7
    assert given == [["job.toml", "--date", "2026-11-21"]]


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([name, "--help"])
    assert caught.value.code == 0 and "usage:" in capsys.readouterr().out
