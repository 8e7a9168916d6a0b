"""Train a model from the examples of a night.

Call `train`, or use the command line, as training services do:

    python -m trainer.task --examples runs/nights/2026-11-21/examples --output model --settings settings.json

The settings file has the tables `model` and `training` of `trainer.config`; omitted settings have their defaults.
Settings that are "auto" are resolved from the counts of the examples, see `trainer.auto`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from trainer.auto import LogCounts, Resolved, auto_names, resolve
from trainer.co_watches import read_histories
from trainer.config import AUTO, ModelSettings, ModelTable, TrainingSettings, TrainingTable
from trainer.distribution import STRATEGIES, make_replicas
from trainer.errors import TrainingError
from trainer.examples import ExampleFiles, Vocabulary, read_file, read_folder, read_label_counts, read_vocabularies
from trainer.export import export_tower, served_trends, write_json, write_video_vectors
from trainer.inputs import count_labels
from trainer.raw import RawFeatures, raw_unsupported_reason
from trainer.record_files import RecordFiles
from trainer.state import read_shape, write_state
from trainer.training import FitResult, fit
from trainer.transitions import count_transitions, write_transitions
from trainer.warm_start import StartSummary, WarmStartSource, model_shape, shape_difference
from transforms.contracts.transitions import TRANSITIONS
from transforms.core.tensorflow_import import tf


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """The paths of the outputs of a training, and its figures."""

    tower: str  # folder of the SavedModel
    state: str  # folder of the state that a later training can start from
    video_vectors: str
    transitions: str
    history: str
    info: str
    steps: int
    examples: int  # labels learned from, in all epochs
    seconds: float  # in the loop, interrupted attempts included
    holdout: tuple[dict[str, float], ...]  # figures after each epoch; empty without holdout records
    start: StartSummary  # what it started from
    auto: dict[str, object]  # the values of the settings that were "auto"
    auto_note: str  # one line about them; empty if there are none
    trends: int = 0  # components of a video vector, before the bias, that are trends


def train(
    examples: ExampleFiles,
    output: str,
    *,
    model: ModelTable,
    training: TrainingTable,
    attempt: str,
    earlier: WarmStartSource | None = None,
    on_save: Callable[[], object] | None = None,
) -> TrainingResult:
    """Train a model and write to the folder `output`: `tower-ATTEMPT/`, `state-ATTEMPT/`, `video_vectors.parquet`,
    `transitions.parquet`, `history.json`, `info.json`, `checkpoints/` and `tensorboard/`.

    Resumes from checkpoints that an earlier attempt wrote there for the same examples, settings and `earlier` model;
    the result is the same as without the interruption. Settings that are "auto" are resolved first, see
    `resolve_settings`; `info.json` has their values and reasons. `on_save` is called after each complete checkpoint.
    Raises TrainingError if nothing can be learned from the examples.

    On several hosts, call it on each with the same arguments. Only the chief writes, to a folder that all can read.
    """
    output = output.rstrip("/")
    replicas = make_replicas(training.strategy)  # must come first: hosts cannot be joined after other work
    counts = read_label_counts(examples)
    resolved = resolve_settings(examples, counts, model=model, training=training, earlier=earlier)
    course = fingerprint(examples, model=resolved.model, training=resolved.training, earlier=earlier)
    fitted = fit(
        examples,
        counts,
        model_settings=resolved.model,
        settings=resolved.training,
        checkpoints=f"{output}/checkpoints/{course}",
        logs=f"{output}/tensorboard",
        earlier=earlier,
        replicas=replicas,
        on_save=on_save,
    )
    progress, vocabularies = fitted.progress, read_vocabularies(examples, counts)
    result = TrainingResult(
        tower=f"{output}/tower-{attempt}",
        state=f"{output}/state-{attempt}",
        video_vectors=f"{output}/video_vectors.parquet",
        transitions=f"{output}/{TRANSITIONS}",
        history=f"{output}/history.json",
        info=f"{output}/info.json",
        steps=progress.steps,
        examples=progress.examples,
        seconds=progress.seconds,
        holdout=tuple(progress.holdout),
        start=fitted.start.summary(vocabularies),
        auto=resolved.values,
        auto_note=resolved.note,
        trends=len(served_trends(fitted.model.tower)),
    )
    if replicas.chief:
        _write_outputs(examples, fitted, counts, result, resolved)
    replicas.broadcast(True)  # the other hosts wait until everything is written: one that exits counts as failed
    return result


def resolve_settings(
    examples: ExampleFiles,
    videos: Vocabulary,
    *,
    model: ModelTable,
    training: TrainingTable,
    earlier: WarmStartSource | None = None,
) -> Resolved:
    """Return the settings with a value for each that is "auto", from the counts of the examples.

    With an `earlier` model, settings that determine the shape keep its values if a warm start is possible with them.
    Records of earlier versions, which do not have the days that trends need, are learned from without trends.
    """
    if model.trends == AUTO and examples.spec.holdout_days is None:
        model = model.model_copy(update={"trends": False})
    if not auto_names(model, training):
        return resolve(model, training, LogCounts(labels=0, users=0, videos=0, watches=0, days=0))
    counts = LogCounts(
        labels=count_labels(examples.train) if examples.labels is None else examples.labels,
        users=_learned_users(examples) if examples.users is None else examples.users,
        videos=examples.spec.videos,
        watches=int(videos.counts.sum()),
        days=examples.window_days,
    )
    shape = read_shape(earlier.state) if earlier else None
    if earlier and shape:
        try:
            kept = resolve(model, training, counts, earlier=shape, earlier_name=earlier.name)
        except ValidationError:  # the rules' values fit together
            return resolve(model, training, counts)
        if not shape_difference(shape, model_shape(examples.spec, kept.model)):
            return kept
    return resolve(model, training, counts)


def _learned_users(examples: ExampleFiles) -> int:
    train, holdout = (
        sum(int(tf.size(block)) for block in RecordFiles.from_paths(paths).read_blocks())
        for paths in (examples.train, examples.holdout)
    )
    return max(0, train - holdout)


def _write_outputs(
    examples: ExampleFiles, fitted: FitResult, counts: Vocabulary, result: TrainingResult, resolved: Resolved
) -> None:
    """Write all outputs of a training except its checkpoints."""
    model, training = resolved.model, resolved.training
    progress, vocabularies = fitted.progress, read_vocabularies(examples, counts)
    unsupported = raw_unsupported_reason(examples, vocabularies)
    raw = None if unsupported else RawFeatures(examples, vocabularies)
    export_tower(fitted.model.tower, result.tower, raw=raw)
    write_video_vectors(fitted.model, counts, result.video_vectors)
    histories = read_histories(fitted.records, examples.spec, newest_labels=True)
    write_transitions(count_transitions(histories, videos=examples.spec.videos), result.transitions)
    write_state(fitted.step, vocabularies, model_shape(examples.spec, model, fitted.step), result.state)
    curve = {"loss": progress.losses, "holdout": progress.holdout}
    write_json(curve | ({"stopping": progress.stopping} if progress.stopping else {}), result.history)
    info = {
        "tower": result.tower.rsplit("/", 1)[-1],
        "state": result.state.rsplit("/", 1)[-1],
        "start": result.start,
        "model": model.model_dump(),
        "training": training.model_dump(),
        "auto": resolved.reasons,
        "trends": result.trends,
        "seed": training.seed,
        "spec": asdict(examples.spec),
        "dates": examples.dates,
        "versions": {name: importlib.metadata.version(name) for name in ("tensorflow", "numpy", "pyarrow")},
        "steps": progress.steps,
        "examples": progress.examples,
        "seconds": round(progress.seconds, 3),
        "waiting_for_input_share": progress.waiting_share,
        "raw_signature": f"none: {unsupported}" if unsupported else "raw",
    }
    write_json(info, result.info)


def fingerprint(
    examples: ExampleFiles, *, model: ModelSettings, training: TrainingSettings, earlier: WarmStartSource | None = None
) -> str:
    """Return a digest of everything that determines a training: it resumes only from checkpoints of the same."""
    files, holdout = (
        [(path.rsplit("/", 1)[-1], tf.io.gfile.stat(path).length) for path in sorted(paths)]
        for paths in (examples.train, examples.holdout)
    )
    source = [earlier.state.rsplit("/", 1)[-1], earlier.name, earlier.days] if earlier else []
    settings = [model.model_dump(), training.model_dump(exclude={"strategy", "checkpoint_steps", "cache_bytes"})]
    course = [files, holdout, asdict(examples.spec), *settings, source]
    if training.early_stopping_epochs:  # in earlier versions held-out users chose the best checkpoint
        course.append("users of its own")
    return hashlib.blake2b(json.dumps(course, sort_keys=True).encode(), digest_size=8).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 1 after printing one line about the error."""
    parser = argparse.ArgumentParser(prog="python -m trainer.task", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", required=True, help="folder of complete examples")
    parser.add_argument("--output", required=True, help="folder for the model")
    parser.add_argument("--settings", help="JSON file with the tables `model` and `training`")
    parser.add_argument("--attempt", default=uuid.uuid4().hex[:8], help="suffix of the tower's folder")
    parser.add_argument("--earlier", help="output folder of an earlier training to start from")
    parser.add_argument("--earlier-days", type=int, default=1, help="days of logs that are new to it (default: 1)")
    parser.add_argument("--strategy", choices=STRATEGIES, help="the devices to train on; overrides the settings")
    args = parser.parse_args(arguments)
    try:
        model, training = read_settings(args.settings)
        training = training.model_copy(update={"strategy": args.strategy or training.strategy})
        earlier = earlier_model(args.earlier, days=args.earlier_days) if args.earlier else None
        examples = read_folder(args.examples)
        result = train(examples, args.output, model=model, training=training, attempt=args.attempt, earlier=earlier)
    except (TrainingError, ValidationError, OSError, tf.errors.ResourceExhaustedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for note in (result.auto_note, result.start["why"]):
        if note:
            print(note, file=sys.stderr)
    print(json.dumps(asdict(result), indent=1))
    return 0


def read_settings(path: str | None) -> tuple[ModelTable, TrainingTable]:
    """Return the settings of a JSON file; the defaults without one. Raises TrainingError for an unknown table."""
    tables: dict[str, object] = {}
    if path is not None:
        tables = _read_object(path, "--settings must name a JSON file")
    if unknown := sorted(set(tables) - {"model", "training"}):
        raise TrainingError(f"{path} may have the tables model and training, but has {', '.join(unknown)}")
    model = ModelTable.model_validate(tables.get("model", {}))
    return model, TrainingTable.model_validate(tables.get("training", {}))


def earlier_model(folder: str, *, days: int) -> WarmStartSource:
    """Return the model in the output folder of a training. Raises TrainingError if there is none."""
    path = folder.rstrip("/")
    info = _read_object(f"{path}/info.json", "--earlier must name the output folder of a training")
    return WarmStartSource(state=f"{path}/{info.get('state', 'state')}", name=folder, days=days)


def _read_object(path: str, advice: str) -> dict[str, object]:
    """Return the JSON object in a file. Raises TrainingError with the advice if there is no file."""
    try:
        tables = json.loads(read_file(path, advice))
    except json.JSONDecodeError as error:
        raise TrainingError(f"{path} must be JSON, but {error}") from None
    if not isinstance(tables, dict):
        raise TrainingError(f"{path} must be one JSON object with the tables model and training")
    return tables


if __name__ == "__main__":
    sys.exit(main())
