"""What a pipeline becomes before a runner has it: the steps of Beam's portable graph, and what they carry."""

from __future__ import annotations

import base64
import bz2
import pickletools
from typing import Any

import apache_beam as beam
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2

PARDO = "beam:transform:pardo:v1"


def steps(pipeline: beam.Pipeline) -> dict[str, Any]:
    """The graph's steps by their full names."""
    return steps_of(pipeline.to_runner_api())


def steps_of(graph: Any) -> dict[str, Any]:
    """The steps of a portable graph by their full names."""
    return {step.unique_name: step for step in graph.components.transforms.values()}


def carried(step: Any) -> bytes:
    """The pickle of what a step runs, empty for one that runs no Python."""
    if step.spec.urn != PARDO:
        return b""
    payload = beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload).do_fn.payload
    return bz2.decompress(base64.b64decode(payload))


def function_of(step: Any) -> Any:
    """What a step runs, as a worker gets it."""
    return pickler.loads(beam_runner_api_pb2.ParDoPayload.FromString(step.spec.payload).do_fn.payload)[0]


def modules(pipeline: beam.Pipeline) -> set[str]:
    """The modules of ours, and the main program where it is one, that workers import by what they are given."""
    texts = [
        argument
        for step in steps(pipeline).values()
        if carried(step)
        for _, argument, _ in pickletools.genops(carried(step))
        if isinstance(argument, str)
    ]
    ours = ("__main__", "pipelines.", "transforms.", "trainer.")
    return {text for text in texts if text.startswith(ours)}
