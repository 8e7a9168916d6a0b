"""Write a job file for a folder of logs: look at the files, guess tables and columns, and ask what the logs do not say.

watchnext init FOLDER [--out job.toml] [--watches PATH] [--column TABLE.OURS=YOURS] [--time-zone ZONE] ...

Questions are asked only on a terminal; each has an option that answers it. The new job file is checked with the checks
of `watchnext doctor` on logs, times and units, which read a sample of the rows.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from pipelines import doctor
from pipelines.base import command_lines, console, process_signals, raw_files
from pipelines.base.paths import escape_pattern, join, resolve
from pipelines.checks import findings, log_guesses
from pipelines.checks.doctor_request import DoctorRequest
from pipelines.checks.log_guesses import ABSENT, LogGroup, TableGuess
from pipelines.config.jobs import JobError
from pipelines.night.errors import run_command
from transforms.core import files

# Tables in the order of the job file; watches are required.
TABLES = ("watches", "searches", "videos", "users", "impressions", "hidden")
NONE = "none"  # the value of an option for a table that the logs do not have
_CHECKS = ("job", "root", "logs", "times", "units")
_ANY_OF = ("completed", "watch_seconds")  # watches need one of them
_SHOWN = 5  # files that a message names

parser = command_lines.init


class Questions(Protocol):
    """Asks the user."""

    def choose(self, question: str, answers: Sequence[str], option: str) -> str:
        """Return one of the answers. option: the option of the command that answers the question."""

    def type_in(self, question: str, default: str) -> str:
        """Return a text; the default if nothing is entered, or if nobody can be asked."""


class NoQuestions:
    """Nobody can be asked: a question without a default is an error that names the option."""

    def choose(self, question: str, answers: Sequence[str], option: str) -> str:
        raise JobError(f"{question} (found: {', '.join(answers) or 'none'}) Answer with {option}")

    def type_in(self, question: str, default: str) -> str:
        return default


class TerminalQuestions:
    """Asks on the terminal, on the standard error."""

    def choose(self, question: str, answers: Sequence[str], option: str) -> str:
        if not answers:
            raise JobError(f"{question} There is none to choose from; {option} names one")
        self._print(f"{question} ({option} answers this)")
        for number, answer in enumerate(answers, 1):
            self._print(f"  {number}  {answer}")
        while True:
            given = self._read(f"1 to {len(answers)}: ")
            if given.isdigit() and 1 <= int(given) <= len(answers):
                return answers[int(given) - 1]
            if given in answers:
                return given

    def type_in(self, question: str, default: str) -> str:
        return self._read(f"{question} [{default}]: ") or default

    def _print(self, text: str) -> None:
        print(console.printable(text), file=sys.stderr)

    def _read(self, prompt: str) -> str:
        print(console.printable(prompt), end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise JobError("the input ended before the question was answered: answer with the option")
        return line.strip()


@dataclass(frozen=True, kw_only=True)
class InitRequest:
    """The arguments of the command."""

    folder: str
    out: Path
    paths: Mapping[str, str] = field(default_factory=dict)  # table -> path, glob or `NONE`
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # table -> our name -> theirs
    time_zone: str | None = None
    root: str | None = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> InitRequest:
        """Return the request. Raises JobError for a column or a folder that cannot be right."""
        if "://" not in args.folder and not Path(args.folder).is_dir():
            what = "is a file; name the folder that contains it" if Path(args.folder).exists() else "does not exist"
            raise JobError(f"FOLDER = {args.folder!r} {what}")
        paths = {table: getattr(args, table) for table in TABLES if getattr(args, table)}
        return cls(
            folder=args.folder if "://" in args.folder else os.path.abspath(args.folder),
            out=Path(args.out),
            paths=paths,
            columns=_given_columns(args.column),
            time_zone=args.time_zone,
            root=args.root,
        )

    @property
    def root_path(self) -> str:
        return resolve(str(self.out.absolute().parent), self.root or "runs")


def _given_columns(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return table -> our name -> theirs. Raises JobError for a word that is not TABLE.OURS=YOURS."""
    found: dict[str, dict[str, str]] = {}
    for word in words:
        name, equals, theirs = word.partition("=")
        table, dot, ours = name.partition(".")
        if not (equals and dot and theirs) or table not in TABLES or ours not in log_guesses.known_columns(table):
            example = "such as --column watches.user_id=uid; docs/logs.md lists tables and columns"
            raise JobError(f"--column {word!r} must be TABLE.OURS=YOURS, {example}")
        found.setdefault(table, {})[ours] = theirs
    return found


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The content of a job file, and what to say of it."""

    tables: dict[str, TableGuess]
    time_zone: str
    has_local_times: bool  # some times have no offset, so that `time_zone` decides
    notes: list[str]

    @property
    def has_missing_days(self) -> bool:
        return any(guess.group.missing_days for guess in self.tables.values())


def plan_job(request: InitRequest, questions: Questions) -> JobPlan:
    """Look at the logs and return the content of the job file.

    Raises JobError for a question that cannot be asked, LogError for logs that cannot be read.
    """
    groups, skipped = log_guesses.find_groups(request.folder, without=[request.root_path])
    guesses = [
        guess for group in groups if not group.error and (guess := log_guesses.guess_table(group, request.columns))
    ]
    notes = [f"{group.pattern} cannot be read: {group.error}" for group in groups if group.error]
    if skipped:
        names = ", ".join(os.path.basename(path) for path in skipped[:_SHOWN])
        notes.append(f"other files that are left out: {names}{', ...' if len(skipped) > _SHOWN else ''}")
    tables: dict[str, TableGuess] = {}
    for table in TABLES:
        candidates = [guess for guess in guesses if guess.table == table]
        if table != "watches":  # of incomplete ones, a note on the first is enough
            candidates = [guess for guess in candidates if guess.is_complete] or candidates[:1]
        found = _table(table, candidates, groups, request, questions)
        if found is None:
            continue
        if table != "watches" and not found.is_complete:
            notes.append(_left_out(found))
            continue
        tables[table] = found
        notes += [f"{found.group.pattern}: {problem}" for problem in found.problems]
    used = {file.path for guess in tables.values() for file in guess.group.files}
    unused = [group.pattern for group in groups if not {file.path for file in group.files} & used and not group.error]
    if unused:
        notes.append(f"not used: {', '.join(unused[:_SHOWN])}{', ...' if len(unused) > _SHOWN else ''}")
    local = any(
        log_guesses.has_local_times(guess.group, guess.columns["time"])
        for guess in tables.values()
        if "time" in guess.columns
    )
    zone = request.time_zone or "UTC"
    if local and request.time_zone is None:
        zone = questions.type_in("time zone of times without an offset, such as Europe/Berlin", "UTC")
        notes.append(f"times without an offset are read as those of {zone}: --time-zone names another time zone")
    _check_zone(zone)
    return JobPlan(tables=tables, time_zone=zone, has_local_times=local, notes=notes)


def _left_out(guess: TableGuess) -> str:
    """Return a note on a table that lacks required columns."""
    table, lacking = guess.table, guess.lacking
    why = f": {'; '.join(guess.problems)}" if guess.problems else ""
    options = " ".join(f"--column {table}.{ours}=..." for ours in lacking)
    return f"{guess.group.pattern} is left out of {table}, because it lacks {', '.join(lacking)}{why}; {options}"


def _check_zone(zone: str) -> None:
    try:
        ZoneInfo(zone)
    except (ValueError, KeyError, OSError) as error:
        raise JobError(f"--time-zone {zone!r} is not an IANA time zone such as UTC or Europe/Berlin") from error


def _table(
    table: str,
    guesses: list[TableGuess],
    groups: list[LogGroup],
    request: InitRequest,
    questions: Questions,
) -> TableGuess | None:
    """Return the group of files that are a table, with all required columns if it is the table of watches."""
    given = request.paths.get(table)
    if given == NONE:
        return None
    if given is not None:
        group = log_guesses.group_of_pattern(f"--{table}", _absolute(given))
        if group.error:
            raise JobError(f"--{table} {given!r}: {group.error}")
        chosen = log_guesses.guess_columns(group, table, request.columns.get(table, {}))
    elif not guesses and table != "watches":
        return None
    else:
        chosen = _chosen(table, guesses, groups, request, questions)
    return _with_required(chosen, questions) if table == "watches" else chosen


def _absolute(path: str) -> str:
    return path if "://" in path else resolve(escape_pattern(os.getcwd()), path)


def _chosen(
    table: str, guesses: list[TableGuess], groups: list[LogGroup], request: InitRequest, questions: Questions
) -> TableGuess:
    """Return the most certain of several groups that may be a table; ask if there is none, or more than one."""
    best = max((guess.certainty for guess in guesses), default=0)
    first = [guess for guess in guesses if guess.certainty == best]
    if len(first) == 1:
        return first[0]
    if first and (merged := _merged(first, groups)) is not None:
        return merged
    known = [guess.group for guess in first] or [group for group in groups if not group.error]
    patterns = {group.pattern: group for group in known}
    what = "which files are the table of watches?" if table == "watches" else f"which files are the table of {table}?"
    option = f"--{table} {_example(request.folder, known)}"
    if not patterns:
        raise JobError(f"{request.folder} has no log file that can be read")
    group = known[0] if len(patterns) == 1 else patterns[questions.choose(what, list(patterns), option)]
    return log_guesses.guess_columns(group, table, request.columns.get(table, {}))


def _example(folder: str, groups: Sequence[LogGroup]) -> str:
    return join(folder, groups[0].pattern) if groups else "PATH"


def _merged(guesses: list[TableGuess], groups: list[LogGroup]) -> TableGuess | None:
    """Return groups with the same columns, whose patterns differ in one folder or in the name, as one group; None if a
    common pattern would match other files too."""
    if len({(guess.group.columns, tuple(sorted(guess.columns.items()))) for guess in guesses}) > 1:
        return None
    parts = [guess.group.pattern.split("/") for guess in guesses]
    if len({len(path) for path in parts}) > 1:
        return None
    differ = [place for place, names in enumerate(zip(*parts, strict=True)) if len(set(names)) > 1]
    if len(differ) != 1:
        return None
    endings = {path[-1].partition(".")[2] for path in parts}
    if len(endings) > 1:
        return None
    common = list(parts[0])
    common[differ[0]] = "*" if differ[0] < len(common) - 1 else f"*.{endings.pop()}"
    own = {file.path for guess in guesses for file in guess.group.files}
    top = guesses[0].group.files[0].path[: -len(_relative(guesses[0].group))]
    pattern = "/".join(common)
    matched = {file.path for group in groups for file in group.files if _would_match(top, pattern, file.path)}
    if matched != own:
        return None
    listed = tuple(sorted((file for guess in guesses for file in guess.group.files), key=lambda file: file.path))
    days = tuple(sorted({day for guess in guesses for day in guess.group.days}))
    group = replace(guesses[0].group, pattern=pattern, files=listed, days=days)
    return replace(guesses[0], group=replace(group, rows=sum(guess.group.rows for guess in guesses)))


def _relative(group: LogGroup) -> str:
    """Return the path of the first file of a group, relative to the folder of the logs."""
    depth = group.pattern.count("/") + 1
    return "/".join(group.files[0].path.split("/")[-depth:])


def _would_match(top: str, pattern: str, path: str) -> bool:
    return raw_files.would_read(f"{escape_pattern(top)}{pattern.replace('{date}', '*')}", path)


def _with_required(guess: TableGuess, questions: Questions) -> TableGuess:
    """Return a guess of watches with all required columns; ask for those that were not found."""
    pattern, given = guess.group.pattern, dict(guess.columns)
    why = f" ({'; '.join(guess.problems)})" if guess.problems else ""
    free = [name for name in guess.group.columns if name not in given.values()]
    if guess.lacking and not free:
        raise JobError(f"{pattern} has no column for {' or '.join(guess.lacking)}{why}, which watches need")
    if guess.question:
        ours, _, theirs = guess.question.partition("=")
        watched, length = "the seconds watched", "the length of the video"
        option = f"--column watches.{ours}={theirs}, or --column watches.video_seconds={theirs} and one for completed"
        if questions.choose(f"{pattern}: what is the column {theirs}?", [watched, length], option) == watched:
            given = {name: column for name, column in given.items() if column != theirs} | {ours: theirs}
            return replace(guess, columns=given, question="")
        guess = replace(guess, question="", lacking=_ANY_OF)
    required = [name for name in guess.lacking if name not in _ANY_OF]
    for ours in required:
        option = f"--column watches.{ours}=YOURS"
        given[ours] = questions.choose(f"{pattern}: which column is {ours}?{why}", free, option)
        free.remove(given[ours])
    if required:
        return _with_required(log_guesses.guess_columns(guess.group, "watches", given), questions)
    if "watch_seconds" in guess.lacking:
        answers = [f"{name}: {what}" for name in free for what in ("watched to the end", "seconds watched")]
        option = "--column watches.completed=YOURS or --column watches.watch_seconds=YOURS"
        what = "which column says whether a watch was completed, or how many seconds were watched?"
        name, _, meaning = questions.choose(f"{pattern}: {what}{why}", answers, option).rpartition(": ")
        given["completed" if meaning == "watched to the end" else "watch_seconds"] = name
    return log_guesses.guess_columns(guess.group, "watches", given) if guess.lacking else guess


def to_toml(plan: JobPlan, request: InitRequest) -> str:
    """Return the text of the job file, with a comment on each table."""
    lines = [
        f"# Written by watchnext init on {dt.date.today()} after a look at {_one_line(request.folder)}. Paths are",
        "# relative to this file. docs/job.md lists all settings, docs/logs.md the columns of each table.",
        "[logs]",
    ]
    for table, guess in plan.tables.items():
        lines += [f"# {_about(guess)}", f"{table} = {_string(_in_job(guess.group.pattern, request, table))}"]
    if plan.has_missing_days:
        lines += ["# Some days have no file. Without this line a missing day is an error.", "allow_missing_days = true"]
    if plan.has_local_times or plan.time_zone != "UTC":
        lines += ["# Of times without an offset, and of the days."]
        lines += [f"time_zone = {_string(plan.time_zone)}"]
    for table, guess in plan.tables.items():
        renamed = {ours: theirs for ours, theirs in guess.columns.items() if ours != theirs}
        if renamed:
            lines += ["", f"[logs.columns.{table}]  # our name = the name in your files"]
            lines += [f"{ours} = {_string(theirs)}{_comment(theirs)}" for ours, theirs in renamed.items()]
    lines += ["", "[storage]", f"root = {_string(request.root or 'runs')}  # of the store and the nights"]
    return "\n".join([*lines, ""])


def _comment(theirs: str) -> str:
    return "  # a column with our name that holds something else" if theirs == ABSENT else ""


def _about(guess: TableGuess) -> str:
    group = guess.group
    span = f", {group.days[0]} to {group.days[-1]}" if group.days else ""
    files_found = f"{len(group.files):,} file{'s' if len(group.files) > 1 else ''}"
    return f"{files_found}{span}, about {group.rows:,} rows; columns: {_one_line(', '.join(group.columns))}"


def _one_line(text: str) -> str:
    return findings.printable(text)


def _string(text: str) -> str:
    """Return a TOML string: those of JSON are valid, except for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _in_job(pattern: str, request: InitRequest, table: str) -> str:
    """Return a path as the job file names it: relative to its folder, if it is not far from there."""
    if table in request.paths:
        whole = _absolute(request.paths[table])
    elif "://" in request.folder:
        return join(request.folder, pattern)
    else:
        whole = f"{escape_pattern(str(Path(request.folder).resolve()))}/{pattern}"
    if "://" in whole:
        return whole
    own = escape_pattern(str(request.out.resolve().parent))
    return whole[len(own) + 1 :] if whole.startswith(f"{own}/") else whole


def night_date(plan: JobPlan) -> dt.date | None:
    """Return the date to give to commands: the day after the newest watches; None if that is today, or unknown."""
    newest = log_guesses.newest_day(plan.tables["watches"], plan.time_zone)
    today = dt.datetime.now(ZoneInfo(plan.time_zone)).date()
    date = newest + dt.timedelta(days=1) if newest else None
    return date if date != today else None


def main(argv: Sequence[str] | None = None) -> int:
    """Write a job file. Return an exit code of `command_lines.INIT_CODES`."""
    args = parser().parse_args(argv)

    def work() -> int:
        request = InitRequest.from_args(args)
        if request.out.exists() and not args.overwrite:
            raise JobError(f"--out {args.out!r} exists; name another file, or add --overwrite")
        if not request.out.absolute().parent.is_dir():
            raise JobError(f"--out {args.out!r}: the folder {request.out.absolute().parent} does not exist")
        can_ask = sys.stdin is not None and sys.stdin.isatty() and not args.no_questions
        plan = plan_job(request, TerminalQuestions() if can_ask else NoQuestions())
        files.replace_file(str(request.out.absolute()), to_toml(plan, request).encode())
        return _report(plan, request, args.out)

    with process_signals.raise_stopped():
        return run_command(work)


def _report(plan: JobPlan, request: InitRequest, out: str) -> int:
    """Print what was found, what doctor's checks find, and the next commands. Return 1 if a night would fail."""
    for table, guess in plan.tables.items():
        renamed = [f"{ours} = {theirs}" for ours, theirs in guess.columns.items() if theirs not in (ours, ABSENT)]
        names = f" ({', '.join(renamed)})" if renamed else ""
        print(console.printable(f"{table}: {_in_job(guess.group.pattern, request, table)}{names}"))
    for note in plan.notes:
        print(console.printable(f"note: {note}"))
    date = night_date(plan)
    found = list(_problems(out, date))
    colours, width = findings.terminal()
    for finding in found:
        print(findings.to_text(finding, colours=colours, width=width))
    option = f" --date {date}" if date else ""
    failed = findings.exit_code(found)
    state = "; a night would fail until the problems are fixed" if failed else ""
    print(console.printable(f"{out} is written{state}"))
    print(console.printable(f"next: watchnext doctor {out}{option}\n      watchnext nightly {out}{option}"))
    return failed


def _problems(job: str, date: dt.date | None) -> Iterator[findings.Finding]:
    """Yield the warnings and problems that doctor finds in the logs of the job."""
    checks = [check for check in doctor.CHECKS if check.name in _CHECKS]
    yield from (one for one in doctor.diagnose(DoctorRequest(job=job, date=date), checks) if one.state != "ok")


if __name__ == "__main__":
    raise SystemExit(main())
