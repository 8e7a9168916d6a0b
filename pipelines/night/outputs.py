"""The typed contracts between stages: what each stage leaves in its manifest for later stages, alongside its files.

    night.outputs(TrainOutputs).tower        # validated; a damaged manifest raises DamagedManifestError
    done.read(IndexOutputs).candidates.rows  # the same for a manifest that was loaded before

One class per stage. A new field needs a default value, because the manifests of earlier nights are kept. Manifests
written before `outputs` existed hold the same values in `counts`; `from_counts` finds them there.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.base.manifest import Outputs
from pipelines.night import artifacts
from transforms.ranking.measured_calibration import MeasuredCalibration
from transforms.ranking.order import ChosenOrder

UtcTime = Annotated[dt.datetime, AfterValidator(lambda time: time.astimezone(dt.UTC))]


class _Part(BaseModel):
    """A part of a stage's outputs."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class IngestOutputs(Outputs):
    """The state of the store after ingest, and the number of rows by what became of them."""

    stage: ClassVar[str] = "ingest"

    snapshot: int  # number of the store's snapshot that the night reads
    rows: dict[str, int]  # table of events -> events in the store
    tables: dict[str, dict[str, int]] | None  # table -> what became of a row (`row_counts`) -> rows; None: unknown
    rejects: dict[str, int]  # "TABLE: REASON" -> rejected rows

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {"rows": {}, "tables": None, "rejects": {}} | super().from_counts(counts)


class LearnableWindow(_Part):
    """The events of the window that vocabularies and models may learn from."""

    watches: int
    robot_watches: int
    held_out_watches: int
    completed: int  # watches
    searches: int
    users: int
    birth_years: int  # users with a birth year
    newest: UtcTime  # time of the newest event
    categories: dict[str, list[str]]  # feature -> its values, the most frequent first


class VocabularyOutputs(Outputs):
    """The description of the window that the vocabularies were counted in, and the users held out of it."""

    stage: ClassVar[str] = "vocabulary"

    window: LearnableWindow
    holdout_share: float = 0.05  # of users; older manifests do not have it, and this was the default


class FeatureValues(_Part):
    """Number of examples by the value, or the bin of values, of one feature."""

    train: dict[str, int] = {}
    serving: dict[str, int] = {}


class ExamplesOutputs(Outputs):
    """Properties of the examples that are not in their files."""

    stage: ClassVar[str] = "examples"

    newest: UtcTime  # time of the newest event of the window
    window_days: int = 0  # days of the window; 0 in earlier versions
    features: dict[str, FeatureValues]

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {"features": {}} | super().from_counts(counts)


class WarmStartBase(_Part):
    """The model from which a training continues."""

    date: str | None  # of its night; None if the training starts from scratch
    digest: str = ""  # of the manifest of its training


class TrainOutputs(Outputs):
    """Names of the parts of the model, and its warm start."""

    stage: ClassVar[str] = "train"

    tower: str  # folder of the user tower
    state: str  # folder of the state from which a later night's training continues
    trends: int = 0  # components of a video vector, before the bias, that are trends
    transitions: str | None = None  # file of `transforms.contracts.transitions`; None in earlier versions
    warm_start: WarmStartBase | None = None  # None if training.warm_start is false

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "tower": counts.get("tower", "tower"),
            "state": counts.get("state", artifacts.MODEL_STATE),
            "warm_start": counts.get("earlier"),
        }


class BuiltIndex(_Part):
    """One index: its shards, and how well they search."""

    kind: str  # of `scann_index`, for example "exact"
    folders: tuple[str, ...]  # one per shard
    shard_rows: tuple[int, ...]
    recall: float | None = None  # of a search of all shards, compared with exact search; None if unknown

    @property
    def rows(self) -> int:
        return sum(self.shard_rows)


class NewVideosFile(_Part):
    """The vectors of videos that were uploaded in the last days, and which of them are new in the night's lists."""

    file: str  # `new_videos.NEW_VIDEOS`
    since: UtcTime  # new are those uploaded from then on ...
    until: UtcTime  # ... and before, without a completed watch
    new: int  # number of them


class IndexOutputs(Outputs):
    """The indexes over the videos that may be shown."""

    stage: ClassVar[str] = "index"

    candidates: BuiltIndex  # for searches by user vector
    similar: BuiltIndex | None = None  # for searches by video vector; None if neighbours.similar is 0
    new_videos: NewVideosFile | None = None  # None if neighbours.new_videos is 0, or if the catalogue does not allow it

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {kind: built_index(info, counts["folders"][kind]) for kind, info in counts["info"].items()}


def built_index(info: Mapping[str, Any], folders: list[str]) -> BuiltIndex:
    """Return a `BuiltIndex` from what `index_files.index_info` reports of it."""
    rows = tuple(shard["rows"] for shard in info["shards"])
    return BuiltIndex(kind=info["kind"], folders=tuple(folders), shard_rows=rows, recall=info.get("recall"))


class NeighboursOutputs(Outputs):
    """The number of lists."""

    stage: ClassVar[str] = "neighbours"

    users: int  # with a list

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {"users": counts.get("users", 0)}


class NightRecords(_Part):
    """The training records of one night of a chain of rankers."""

    digest: str  # of the manifest of its ranking; empty for the night whose manifest this is in
    days: dict[str, int]  # day -> impressions of it that may be learned again


class EarlierRanker(_Part):
    """The ranker from which a night's ranker goes on, and what was pinned with it."""

    date: str  # of its night
    digest: str  # of the manifest of its ranking
    replayed: dict[str, str] = {}  # date -> digest of the ranking of each night whose records may be learned again


class HeldOutUsers(_Part):
    """The users whose impressions from `start` on were held out."""

    start: UtcTime
    share: float
    seed: int


class RankingChain(_Part):
    """What a later night needs to go on from a night's ranker: what its chain of nights has learned."""

    earlier: EarlierRanker | None  # None: there was none
    began: str  # date of the chain's first night, which learned its whole window
    state: str  # folder of the state from which a training continues
    time_zone: str
    days: dict[str, str]  # day of the window -> digest of its events as they were learned
    held_out: HeldOutUsers  # whose impressions are not among them
    records: dict[str, NightRecords]  # by date of the night, this one included
    longest_seconds: float  # watch time of one impression
    covered: dict[str, float]  # vocabulary -> share of the occurrences in it when the chain began


class RankedLists(_Part):
    """What the lists were ranked with."""

    neighbours_attempt: str  # attempt of stage neighbours that wrote the lists; empty in old manifests
    ranker: str  # folder of the ranking model
    generators: dict[str, str] | None  # date -> digest of the lists of each earlier night that gave features
    expected_seconds: bool = False  # whether lists have the column `expected_seconds`; older ones do not
    order: ChosenOrder | None = None  # None: by expected seconds alone, in older manifests
    chain: RankingChain | None = None  # None if ranking.warm_start is false, and in older manifests


class RankingOutputs(Outputs):
    """How the lists were ranked."""

    stage: ClassVar[str] = "ranking"

    ranked: RankedLists | None  # None if the lists keep the order of stage neighbours
    calibration: MeasuredCalibration | None = None  # of the expected seconds; None if nobody was held out
    # Day -> `outcome_files.fingerprints` of the file of its outcomes.
    outcomes: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        if "ranker" not in counts:
            return {"ranked": None}
        ranked = RankedLists(
            neighbours_attempt=counts.get("neighbours", ""),
            ranker=counts["ranker"],
            generators=counts.get("generators"),
        )
        return {"ranked": ranked}


class EvaluationOutputs(Outputs):
    """The figures of held-out users, without intervals (see `night_metrics` for these)."""

    stage: ClassVar[str] = "evaluation"

    figures: dict[str, dict[str, int | float]]  # system -> figure -> value

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        return {"figures": counts.get("metrics", {})}

    def recalls(self) -> dict[str, dict[str, float]]:
        """Return the recall at each k, by system."""
        return {
            system: {name: value for name, value in figures.items() if name.startswith("recall@")}
            for system, figures in self.figures.items()
        }


class GateSummary(_Part):
    """The result of all gates of a night. `failed` is left out of `published.json`."""

    status: str  # as `night_results.GateResults.status`
    why: str = ""
    failed: tuple[str, ...] = ()  # names of gates
    not_computed: dict[str, str] = {}  # gate -> reason


class PublishOutputs(Outputs):
    """The lists that passed the gates, and the lists that the night was last published with."""

    stage: ClassVar[str] = "publish"

    published: bool  # by this run; false if a later night was served at the time
    lists: str | None = None  # file of the lists that passed the gates, relative to ROOT; None in old manifests
    published_lists: str | None = None  # file of the newest publication of the night; None if there is none
    gates: GateSummary | None = None  # None in old manifests
    recall: dict[str, dict[str, float]] | None = None  # system -> recall at each k, of the published lists

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> dict[str, Any]:
        found = super().from_counts(counts)
        return found if "lists" in counts else {"published": found.get("published", False)}

    @property
    def was_published(self) -> bool:
        """Whether the night was ever published."""
        return self.published or bool(self.published_lists)


CLASSES: tuple[type[Outputs], ...] = (
    IngestOutputs,
    VocabularyOutputs,
    ExamplesOutputs,
    TrainOutputs,
    IndexOutputs,
    NeighboursOutputs,
    RankingOutputs,
    EvaluationOutputs,
    PublishOutputs,
)
OF_STAGE = {outputs.stage: outputs for outputs in CLASSES}
