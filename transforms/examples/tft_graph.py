"""TFT's graph, analysed in this process and written anywhere: what `encoding` and `ranking_encoding` are made with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from transforms.core import files
from transforms.core.files import FileEntry
from transforms.core.tensorflow_import import import_tensorflow


def write_tft_graph(
    rows: pa.RecordBatch,
    features: Mapping[str, Any],
    preprocess: Callable[[Any], dict[str, Any]],
    folder: str,
    *,
    pipeline: beam.Pipeline,
) -> list[FileEntry]:
    """Analyse `rows` for TFT's preprocessing function and write its graph to `folder`; the entries of its files, whose
    names are relative to it.

    features: TensorFlow's parsing spec of the columns. `pipeline`: one without steps, that runs in this process. These
    are few rows, and TensorFlow knows the file systems of few object stores: it reads and writes a local disk here,
    from which the graph is brought to `folder`.
    """
    import_tensorflow()
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata.schema_utils import schema_from_feature_spec
    from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
    from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

    representations = InferTensorRepresentationsFromSchema(schema_from_feature_spec(features))
    with tempfile.TemporaryDirectory(prefix="watchnext-") as scratch:
        local = Path(scratch) / "graph"
        with pipeline, tft_beam.Context(temp_dir=f"{scratch}/tft"):
            analysed = pipeline | beam.Create([rows], reshuffle=False)
            graph = (analysed, TensorAdapterConfig(rows.schema, representations)) | tft_beam.AnalyzeDataset(preprocess)
            graph | tft_beam.WriteTransformFn(str(local))
        return files.upload_all(local, folder)
