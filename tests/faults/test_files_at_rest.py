"""A file of a root with two published nights is damaged: readers get the published lists or a message, and the commands
that the messages name lead back to a whole root."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest
from commands import Done, stages_in_process, watchnext
from damage import DAMAGE, Injected
from nights import DATE
from two_nights import MADE, all_lists, copy

from pipelines import doctor
from pipelines.night.errors import EXPECTED_ERRORS

COSTLY = ("model", "examples", "index", "vocabulary")  # folders of stages whose repair trains a model again
DAMAGES = dict.fromkeys(COSTLY, 1) | {"evaluation": 1}  # how many kinds of damage a kind of file gets, if not all
# Folders whose files are written, checked and repaired as one.
_WHOLE = re.compile(r"/(transform_fn|tower|state|tensorboard|candidates|similar)[^/]*/.*")
_COMMAND = re.compile(r"watchnext ((?:nightly|rollback) \S+(?: --(?:date|from|force|reingest|to) [\w-]+| --reread)*)")


def groups(root: Path) -> dict[str, list[Path]]:
    """The files of a root by what they are: their names without buckets, days, attempts and shards."""
    found = defaultdict(list)
    for path in sorted(root.rglob("*")):
        if path.is_file():
            name = path.relative_to(root).as_posix()
            kind = re.sub(r"\d{4}-\d\d-\d\d|\d{5}-of-\d{5}|\d{8}|[0-9a-f]{8}", "*", name)
            found[_WHOLE.sub(r"/\1/*", kind)].append(path.relative_to(root))
    return found


def chosen(root: Path, part: int, parts: int) -> list[tuple[Path, str]]:
    """Files to damage, each with how: of every kind of file a few, of costly ones fewer."""
    chance, found = random.Random(part), []
    for number, (kind, paths) in enumerate(groups(root).items()):
        if number % parts == part:
            count = next((few for folder, few in DAMAGES.items() if f"/{folder}/" in kind), len(DAMAGE))
            names = chance.sample(list(DAMAGE), count)
            found += [(chance.choice(paths), damage) for damage in names]
    return found


def way_back(job: Path) -> list[Done]:
    """Run the night again, then what `doctor --deep` says, until it finds nothing more; all that was run."""
    done = [watchnext("nightly", job, "--date", DATE, "--force-publish", MADE)]
    for _ in range(5):
        done.append(found := watchnext("doctor", job, "--date", DATE, "--deep", "--json"))
        commands = [command for one in json.loads(found.message) for command in _COMMAND.findall(one["fix"])[:1]]
        if not commands:
            return done
        for command in dict.fromkeys(commands):
            forced = ["--force-publish", MADE] if command.startswith("nightly") else []
            done.append(watchnext(*shlex.split(command), *forced))
    return done


@pytest.mark.parametrize("part", range(12))
def test_a_damaged_file_is_noticed_or_harmless_and_the_named_commands_repair_it(
    tmp_path: Path, two_nights: Path, monkeypatch: pytest.MonkeyPatch, injected: Injected, part: int
) -> None:
    expected = all_lists(two_nights / "job.toml")
    assert len(expected) > 100
    monkeypatch.setattr(doctor, "CHECKS", tuple(check for check in doctor.CHECKS if check.name == "job"))
    with stages_in_process():
        for number, (path, damage) in enumerate(chosen(two_nights / "runs", part, 12)):
            job = copy(two_nights, tmp_path / str(number))
            DAMAGE[damage](job.parent / "runs" / path, random.Random(f"{path} {damage}"))
            injected(damage)
            what = f"{damage} {path}"
            try:
                assert all_lists(job) == expected, what
            except EXPECTED_ERRORS as error:
                assert str(error), what
            done = way_back(job)
            for one in done:
                assert not one.has_traceback, (what, one.message)
            assert done[-1].code == 0, (what, [one.message for one in done])
            found = all_lists(job)
            assert set(found) == set(expected), (what, [one.message for one in done])
            if not any(f"/{folder}/" in str(path) for folder in COSTLY):
                assert found == expected, what
