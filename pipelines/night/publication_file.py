"""Read what is published: `ROOT/published.json`, the publications of each night, and the lists of files they serve.

published.json -> nights/DATE/publish/lists-DIGEST.json, the file list of a publication -> the served files
nights/DATE/publish/COMPLETED -> `PublishOutputs`: the file lists last published and last accepted by the gates
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, field_validator

from pipelines.base import manifest, paths, published_lists
from pipelines.base.manifest import Manifest
from pipelines.base.paths import Root
from pipelines.base.published_lists import PublishedLists, PublishedListsError, Reference
from pipelines.night import artifacts
from pipelines.night.errors import StageError
from pipelines.night.outputs import GateSummary, NeighboursOutputs, PublishOutputs, RankingOutputs
from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.messages import invalid_fields

RANKING, NEIGHBOURS = "ranking", "neighbours"
_REQUIRED = {"format_version", "date", "buckets", "users", "published_at"}  # fields that readers of lists need


class _Part(BaseModel):
    """A part of `published.json`. Unknown fields, as of another version, are kept."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)


class SinkVersions(_Part):
    """The versions of the lists in one sink."""

    serves: str | None = None
    before: str | None = None  # served before; it is kept for a rollback

    @property
    def all(self) -> set[str]:
        return {version for version in (self.serves, self.before) if version}


class EarlierPublication(_Part):
    """The publication that was served before."""

    date: str
    lists: Reference | None = None


class PublishedGates(GateSummary):
    """The result of a night's gates. Older versions may have written other fields."""

    model_config = ConfigDict(frozen=True, extra="allow", defer_build=True)

    status: str = ""


class Summary(_Part):
    """What `published.json` contains about the quality of the lists."""

    gates: PublishedGates | None = None
    recall: dict[str, dict[str, float]] | None = None  # system -> recall at each k


class Published(_Part):
    """The content of `published.json`. Fields with a default value are missing in files of older versions."""

    format_version: StrictInt = published_lists.FORMAT_VERSION  # that of `lists`
    date: StrictStr  # of the night
    stage: str = NEIGHBOURS  # that wrote the lists
    neighbours: str = ""  # digest of the manifest of stage neighbours
    users: StrictInt = 0
    buckets: StrictInt = 0
    lists: Reference | None = None
    before: EarlierPublication | None = None
    published_at: StrictStr = ""  # ISO 8601
    gates: PublishedGates | None = None
    recall: dict[str, dict[str, float]] | None = None
    sinks: dict[str, SinkVersions] = Field(default_factory=dict)

    @field_validator("date")
    @classmethod
    def _is_date(cls, date: str) -> str:
        dt.date.fromisoformat(date)
        return date

    @field_validator("before", mode="before")
    @classmethod
    def _none_if_empty(cls, before: object) -> object:
        return before or None

    @property
    def night(self) -> dt.date:
        return dt.date.fromisoformat(self.date)

    @property
    def references(self) -> list[Reference]:
        """The references to the lists that are served and that were served before."""
        references = (self.lists, self.before.lists if self.before else None)
        return [reference for reference in references if reference]

    def content(self) -> dict[str, Any]:
        """Return the JSON content of the file, without the fields that were missing in it."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_json(self) -> bytes:
        return to_json(self.content())


def read(root: Root, *, whole: bool = False) -> Published | None:
    """Return the content of `published.json`; None before the first night is published.

    Raises StageError if it is damaged; with `whole` also if it lacks a field that readers of lists need.
    """
    if not files.exists(root.published):
        return None
    try:
        published = Published.model_validate(json.loads(files.read_bytes(root.published)))
        if whole and (missing := sorted(_REQUIRED - published.model_fields_set)):
            raise ValueError(f"it has no {', '.join(missing)}")
        return published
    except (ValueError, TypeError) as error:
        fault = invalid_fields(error) if isinstance(error, ValidationError) else error
        raise StageError(f"{root.published} cannot be read ({fault}): {_repair(root)}") from error


def _repair(root: Root) -> str:
    """Return how to restore `published.json`."""
    newest = newest_publication(root)
    if newest is None:
        return "remove it, then run watchnext nightly"
    return (
        f"run watchnext nightly JOB.toml --date {newest}, which restores it, or watchnext rollback JOB.toml --to DATE, "
        "which serves the night of DATE"
    )


def read_if_valid(root: Root) -> Published | None:
    """Return the content of `published.json`; None if it is missing or damaged."""
    try:
        return read(root)
    except StageError:
        return None


def is_lost(root: Root) -> bool:
    """Return whether `published.json` or the file list that it names is unreadable, or missing after a publication."""
    try:
        published = read(root, whole=True)
    except StageError:
        return True
    if published is None:
        return newest_publication(root) is not None
    try:
        return published.lists is not None and not published_lists.read(root, published.lists)
    except PublishedListsError:
        return True


def served_date(root: Root) -> dt.date | None:
    """Return the date of the served night; if `published.json` is lost, that of the newest valid publication."""
    try:
        return dt.date.fromisoformat(json.loads(files.read_bytes(root.published))["date"])
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return newest_publication(root)


def newest_publication(root: Root, before: dt.date | None = None) -> dt.date | None:
    """Return the newest night (before a date, if given) that was published and not withdrawn."""
    withdrawn_dates = withdrawn(root)
    for date in reversed(paths.nights(root)):
        if (before is None or date < before) and date.isoformat() not in withdrawn_dates and was_published(root, date):
            return date
    return None


def withdrawn(root: Root) -> frozenset[str]:
    """Return the ISO dates of the withdrawn nights. No training continues from them and no gate compares
    with them. `withdrawn.json` is a list of dates; without the file, no night was withdrawn."""
    if not files.exists(root.withdrawn):
        return frozenset()
    try:
        dates = json.loads(files.read_bytes(root.withdrawn))
        return frozenset(dt.date.fromisoformat(date).isoformat() for date in dates)
    except (ValueError, TypeError) as error:
        raise StageError(f"{root.withdrawn} is not a JSON list of dates ({error})") from error


def was_published(root: Root, date: dt.date) -> bool:
    """Return whether a night was ever published, according to its stage publish."""
    done = manifest.record(root.stage(date, "publish"))
    return done is not None and done.read(PublishOutputs).was_published


def served(root: Root) -> PublishedLists | None:
    """Return the file list of the served publication; None before the first night is published.

    If `published.json` is of an older version, which names no file list, return that of the lists that the stages of
    its night wrote. Raises StageError if the file list cannot be read.
    """
    published = read(root, whole=True)
    if published is None:
        return None
    try:
        if published.lists:
            return published_lists.read(root, published.lists)
        return from_stages(root, published.night, published.buckets)
    except (PublishedListsError, manifest.ManifestError) as error:
        raise StageError(
            f"{root.published} names lists of the night of {published.date} that cannot be read ({error}): run "
            f"watchnext nightly JOB.toml --date {published.date}, or serve another night with watchnext rollback "
            "JOB.toml --to DATE"
        ) from error


def missing_files_message(root: Root) -> str:
    """Return a message on missing files of the served publication; empty if there are none."""
    try:
        lists = served(root)
    except StageError as error:
        return str(error)
    entries = lists.entries if lists else ()
    gone = [entry.name for entry in entries if not files.exists(paths.join(root.path, entry.name))]
    return f"{len(gone)} of its files are gone, the first {gone[0]}" if gone else ""


def last_published(root: Root, date: dt.date) -> PublishedLists | None:
    """Return the file list that a night was last published with, even if it is not served now; None if the night was
    never published, or if the file list was dropped."""
    entry = read_if_valid(root)
    if entry and entry.night == date and entry.lists:
        return _load_lists(root, entry.lists.file)
    done = manifest.record(root.stage(date, "publish"))
    outputs = done.read(PublishOutputs) if done else None
    if outputs and outputs.published_lists:
        return _load_lists(root, outputs.published_lists)
    if outputs and outputs.published and outputs.lists is None:  # of an older watchnext
        return from_stages_if_complete(root, date)
    return None


def accepted(root: Root, date: dt.date) -> PublishedLists | None:
    """Return the file list that a rollback to a night serves: the one it was last published with, or, if it was never
    published, the one that its gates accepted. None if there is none."""
    lists = last_published(root, date)
    done = manifest.load(root.stage(date, "publish"))
    if lists is not None or done is None:
        return lists
    if name := done.read(PublishOutputs).lists:
        return _load_lists(root, name)
    return from_stages_if_complete(root, date)


def _load_lists(root: Root, name: str) -> PublishedLists | None:
    """Read a file list, by its name; None if it does not exist. Raises StageError if it is damaged."""
    path = paths.join(root.path, name)
    if not published_lists.is_below(name) or not files.exists(path):
        return None
    try:
        return published_lists.load(path)
    except PublishedListsError as error:
        raise StageError(f"{error}: remove it and run the night again") from error


def from_stages_if_complete(root: Root, date: dt.date) -> PublishedLists | None:
    """Return `from_stages`; None if the night has no complete lists."""
    if manifest.load(root.stage(date, NEIGHBOURS)) is None:
        return None
    return from_stages(root, date)


def from_stages(root: Root, date: dt.date, buckets: int | None = None) -> PublishedLists:
    """Return the file list of the lists that the stages of a night wrote. Raises ManifestError if the stages are not
    complete, StageError if the lists are not: a bucket has no file, or rows and users differ in number."""
    stage = served_stage(root, date)
    listed = manifest.require(root.stage(date, stage), stage)
    neighbours = manifest.require(root.stage(date, NEIGHBOURS), NEIGHBOURS)
    lists = sorted(own(listed), key=lambda entry: paths.shard_index(entry.name))
    trained = manifest.load(root.stage(date, "train"))
    vectors = [entry for entry in trained.files if entry.name == artifacts.VIDEO_VECTORS] if trained else []
    content = {
        "format_version": _format_version(listed, stage),
        "date": date,
        "stage": stage,
        "buckets": len(lists) if buckets is None else buckets,
        "users": listed.read(NeighboursOutputs).users if stage == NEIGHBOURS else sum(entry.rows for entry in lists),
        "attempt": _attempt(listed, neighbours),
        "neighbours": neighbours.digest,
        "lists": published_lists.relative_entries(lists, root.stage(date, stage), root),
        "video_vectors": next(iter(published_lists.relative_entries(vectors, root.stage(date, "train"), root)), None),
    }
    for kind in ("defaults", "user_vectors", "similar"):
        entries = neighbours.named(f"../{kind}/", ".parquet")
        content[kind] = published_lists.relative_entries(entries, root.stage(date, NEIGHBOURS), root)
    try:
        return PublishedLists(**content)
    except ValidationError as error:
        raise StageError(
            f"the lists of {root.stage(date, stage)} are not whole ({error.errors()[0]['msg']}): run the night again "
            f"from {stage}"
        ) from error


def _format_version(listed: Manifest, stage: str) -> int:
    """Return the format version of the lists of a stage: ranked lists of older versions have no expected seconds."""
    if stage == NEIGHBOURS:
        return published_lists.FORMAT_VERSION
    ranked = listed.read(RankingOutputs).ranked
    return published_lists.FORMAT_VERSION if ranked and ranked.expected_seconds else 1


def _attempt(listed: Manifest, neighbours: Manifest) -> str:
    return manifest.fingerprint(listed.attempt, neighbours.attempt)


def matches_stages(root: Root, date: dt.date) -> bool:
    """Return whether the file list that stage publish accepted last names the current lists of the night's stages.

    Also true if nothing was accepted, or an older version accepted it."""
    done = manifest.load_outputs(root.stage(date, "publish"), PublishOutputs)
    if done is None or done.lists is None:
        return True
    try:
        accepted_last = _load_lists(root, done.lists)
    except StageError:
        return False
    listed, neighbours = (
        manifest.load_readable(root.stage(date, one)) for one in (served_stage(root, date), NEIGHBOURS)
    )
    return bool(accepted_last and listed and neighbours and accepted_last.attempt == _attempt(listed, neighbours))


def served_stage(root: Root, date: dt.date) -> str:
    """Return the stage whose lists are served: ranking if it ranked the current lists, else neighbours.

    The lists are current if they have the same content, or if they are of the same attempt and users were forgotten.
    """
    ranked, lists = (manifest.load(root.stage(date, stage)) for stage in (RANKING, NEIGHBOURS))
    if not ranked or not lists or not own(ranked):
        return NEIGHBOURS
    used = ranked.read(RankingOutputs).ranked
    is_of_same_attempt = used is not None and used.neighbours_attempt == lists.attempt
    return RANKING if is_of_same_attempt or ranked.inputs.get(NEIGHBOURS) == lists.digest else NEIGHBOURS


def own(listed: Manifest) -> list[FileEntry]:
    """Return the entries of a stage's lists, without the files in other folders."""
    return [entry for entry in listed.named(ending=".parquet") if "/" not in entry.name]


def adopt(root: Root) -> None:
    """Add the file list of its night to a `published.json` of an older version, before a stage replaces the files. The
    caller must hold the lock."""
    published = read_if_valid(root)
    if not published or published.lists:
        return
    try:
        lists = from_stages(root, published.night, published.buckets)
    except (manifest.ManifestError, StageError):  # missing or incomplete: nothing can be added
        return
    reference = published_lists.write(root, lists)
    files.replace_file(root.published, published.model_copy(update={"lists": reference}).to_json())


def prune(root: Root, intent: Published | None = None) -> None:
    """Remove file lists, and the files they name, that are not served, were not served before, are not named by an
    intent, and are not the newest of their night."""
    entry = read_if_valid(root)
    if entry is None:
        return
    needed = {reference.file for reference in (*entry.references, *(intent.references if intent else ()))}
    for date in paths.nights(root):
        pinned = published_lists.paths_of_night(root, date)
        done = manifest.record(root.stage(date, "publish")) if pinned else None
        outputs = done.read(PublishOutputs) if done else None
        newest = {outputs.lists, outputs.published_lists} if outputs else set()
        dead = [path for path in pinned if published_lists.relative(root, path) not in needed | newest]
        if dead:
            _remove(root, date, dead, [path for path in pinned if path not in dead])


def _remove(root: Root, date: dt.date, dead: Iterable[str], alive: Iterable[str]) -> None:
    """Remove file lists of a night and their files, except files that other file lists or a manifest name."""
    kept = {path for one in alive for path in _named(root, one)}
    for stage in (NEIGHBOURS, RANKING):
        done = manifest.load(root.stage(date, stage))
        kept |= set(manifest.entry_paths(done.present, root.stage(date, stage))) if done else set()
    for path in dead:
        files.remove_files([name for name in _named(root, path) if name not in kept])
        files.remove_files([path])


def _named(root: Root, path: str) -> Iterator[str]:
    """Yield the paths of the files that a file list names; nothing if it cannot be read."""
    try:
        yield from (paths.join(root.path, entry.name) for entry in published_lists.load(path).entries)
    except PublishedListsError:
        return


def refreshed(root: Root, entry: Published) -> Published:
    """Return the content of `published.json` after users were forgotten, with current digests and user count."""
    if entry.lists is None:
        return entry
    changes: dict[str, object] = {"lists": _current(root, entry.lists)}
    if entry.before and entry.before.lists:
        changes["before"] = entry.before.model_copy(update={"lists": _current(root, entry.before.lists)})
    if (lists := _load_lists(root, entry.lists.file)) is not None:
        changes |= {"users": lists.users, "neighbours": lists.neighbours}
    return entry.model_copy(update=changes)


def _current(root: Root, reference: Reference) -> Reference:
    """Return a reference with the current digest of its file, if the file exists."""
    if not files.exists(paths.join(root.path, reference.file)):
        return reference
    return reference.model_copy(update={"digest": files.file_entry(root.path, reference.file).digest})


def to_json(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()
