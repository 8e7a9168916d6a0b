from __future__ import annotations

import pytest

from pipelines.checks import findings
from pipelines.checks.findings import ok, problem, warning

LONG = "storage.root = '/a/very/long/path/that/goes/on/and/on': " + "something is wrong with it and needs a word " * 5


@pytest.mark.parametrize("width", [80, 100])
def test_lines_fit_the_terminal_and_say_how_to_mend_it(width: int) -> None:
    text = findings.to_text(problem("root", LONG, LONG, "x" * 300), colours=False, width=width)
    lines = text.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("problem  root: storage.root")
    assert any(line.startswith("         fix: ") for line in lines)
    assert lines[-1].strip() == "x" * (width - 11)


def test_colours_are_used_where_they_are_wanted_alone() -> None:
    found = [ok("a", "b"), warning("a", "b", "c"), problem("a", "b", "c")]
    plain = [findings.to_text(one, colours=False, width=80) for one in found]
    coloured = [findings.to_text(one, colours=True, width=80) for one in found]
    assert "\033" not in "".join(plain)
    for state, code, text in zip(("ok", "warning", "problem"), (32, 33, 31), coloured, strict=True):
        assert text.startswith(f"\033[{code}m{state:<8}\033[0m a: b")


def test_what_logs_hold_cannot_write_to_the_terminal() -> None:
    found = problem("logs", "a \033[2J title\nand more", "mend \x07 it", "row \x1b]0;x")
    text = findings.to_text(found, colours=False, width=80)
    assert not {"\033", "\x07"} & set(text) and len(text.splitlines()) == 3


def test_the_last_line_counts_what_was_found() -> None:
    some = [ok("a", "b"), warning("a", "b", "c"), problem("a", "b", "c"), problem("a", "b", "c")]
    assert findings.summary_line(some) == "2 problems, 1 warning: apply the fixes, then run doctor again"
    assert findings.summary_line(some[:2]) == "1 warning: apply the fixes, then run doctor again"
    assert findings.summary_line(some[:1]) == "no problem was found"
    assert [findings.exit_code(some[:n]) for n in (0, 1, 2, 3)] == [0, 0, 0, 1]
