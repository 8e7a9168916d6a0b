"""docs/serving.md read by a machine: its tables, and its steps followed by a reader that knows nothing of watchnext."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
import xxhash
from nights import REPOSITORY, published_night, write_job
from serving_reader import Reader, UnknownVersionError

from pipelines import publish
from pipelines.base import published_lists
from pipelines.night import sink_protocol
from pipelines.night.night import Night
from pipelines.night.outputs import RankedLists, RankingOutputs
from pipelines.serving.served_lists import ServedList, open_lists
from transforms.core.digests import MAX_BUCKETS, MIN_BUCKETS, bucket_of
from transforms.ranking.rank_lists import RANKED_LISTS
from transforms.search.neighbours import LISTS

PAGE = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
USERS = pl.DataFrame(
    {
        "user_id": ["ann", "42", "用户", "nothing left", "u0000001"],
        "video_ids": [["v1", "v2"], ["v2"], ["動画", "v1"], [], ["v9"]],
        "scores": [[3.0, 2.0], [0.5], [1.5, -2.0], [], [0.0]],
    },
    schema=LISTS,
)


def table_of(page: str, *columns: str) -> list[dict[str, str]]:
    """The rows of the table of a Markdown page that has these columns."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in page.splitlines()]
    start = lines.index(list(columns))
    rows = []
    for row in lines[start + 2 :]:
        if len(row) != len(columns):
            break
        rows.append(dict(zip(columns, row, strict=True)))
    return rows


def test_the_documented_buckets_are_those_of_xxhash_and_of_watchnext() -> None:
    rows = table_of(PAGE, "user_id", "XXH64", "of 8", "of 16", "of 4,096")
    assert len(rows) >= 6 and any(not row["user_id"].isascii() for row in rows)
    for row in rows:
        user = row["user_id"]
        assert xxhash.xxh64_hexdigest(user.encode("utf-8"), seed=0) == row["XXH64"]
        for buckets in (8, 16, 4096):
            message = int(row[f"of {buckets:,}"])
            assert message == int(row["XXH64"], 16) % buckets == bucket_of(user, buckets)
    assert f"a power of two from {MIN_BUCKETS} to {MAX_BUCKETS:,}" in " ".join(PAGE.split())


def test_the_documented_columns_are_those_of_the_lists() -> None:
    rows = table_of(PAGE, "column", "type", "what")
    assert [row["column"] for row in rows] == RANKED_LISTS.names()
    assert [row["type"].strip("`") for row in rows] == ["string", "list<string>", "list<float>", "list<float>"]


def test_published_json_holds_what_the_page_shows(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS)
    example, _ = json.JSONDecoder().raw_decode(PAGE, PAGE.index('{"format_version"'))
    written = json.loads(Path(of.root.published).read_text())
    assert set(example) <= set(written)
    assert {name: type(value) for name, value in example.items()} == {name: type(written[name]) for name in example}


def test_the_list_of_files_holds_what_the_page_shows(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS)
    example, _ = json.JSONDecoder().raw_decode(PAGE, PAGE.index('{"format_version"', PAGE.index("2. That file")))
    served = json.loads(Path(of.root.published).read_text())["lists"]
    content = (Path(of.root.path) / served["file"]).read_bytes()
    assert xxhash.xxh3_128_hexdigest(content) == served["digest"]
    written = json.loads(content)
    assert set(example) <= set(written) and set(example["lists"][0]) == set(written["lists"][0])


def test_a_reader_without_watchnext_finds_every_list(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS)
    reader = Reader(of.root.path)
    for user, videos, scores in USERS.iter_rows():
        assert reader.list_of(user) == (videos, scores)
    assert reader.list_of("nobody") is None


def test_ranked_lists_are_read_where_they_are_served(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS, publish=False)
    ranked_night(of, columns={"expected_seconds": [7.5, None]})
    publish.run(of)
    assert sink_protocol.served_stage(of) == "ranking"
    reader, served = Reader(of.root.path), open_lists(of.job, "files").of_user("ann")
    assert {reader.served["format_version"], reader.files["format_version"]} == {2}
    assert reader.list_of("ann") == (["v2", "v1"], [2.0, 3.0]) and reader.seconds_of("ann") == [7.5, None]
    assert served == ServedList(video_ids=["v2", "v1"], scores=[2.0, 3.0], seconds=[7.5, None])


def test_ranked_lists_of_earlier_versions_keep_their_version_and_are_read(tmp_path: Path) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS, publish=False)
    ranked_night(of)
    publish.run(of)
    reader, served = Reader(of.root.path), open_lists(of.job, "files").of_user("用户")
    assert {reader.served["format_version"], reader.files["format_version"]} == {1}
    assert reader.list_of("用户") == (["v1", "動画"], [-2.0, 1.5]) and reader.seconds_of("用户") == [None, 1.5]
    assert served == ServedList(video_ids=["v1", "動画"], scores=[-2.0, 1.5], seconds=[None, 1.5])
    assert published_lists.FORMAT_VERSION == 2, "a later version must still read both"


def ranked_night(of: Night, columns: Mapping[str, list[float | None]] | None = None) -> None:
    """Stage ranking as it would be complete: every list the other way round. columns: further columns of each row; if
    there are any, the lists are of the current version, and otherwise of an earlier one."""
    source, target = Path(of.folder("neighbours")), Path(of.folder("ranking"))
    shutil.copytree(source, target)
    completed = json.loads((target / "COMPLETED").read_text())
    completed["files"] = [file for file in completed["files"] if not file["name"].startswith("../")]
    for file in completed["files"]:
        rows = pl.read_parquet(target / file["name"]).with_columns(pl.col("video_ids", "scores").list.reverse())
        for name, value in (columns or {}).items():
            rows = rows.with_columns(pl.Series(name, [value] * rows.height, pl.List(pl.Float32)))
        rows.write_parquet(target / file["name"])
        content = (target / file["name"]).read_bytes()
        file |= {"bytes": len(content), "digest": xxhash.xxh3_128_hexdigest(content)}
    completed |= {"stage": "ranking", "inputs": {"neighbours": of.require("neighbours").digest}}
    ranked = RankedLists(neighbours_attempt="", ranker="r", generators=None, expected_seconds=True)
    completed["outputs"] = RankingOutputs(ranked=ranked).model_dump(mode="json") if columns else None
    (target / "COMPLETED").write_text(json.dumps(completed))


@pytest.mark.parametrize("name", ["published.json", "nights/2026-11-21/publish/lists-*.json"])
def test_a_format_it_does_not_know_is_refused(tmp_path: Path, name: str) -> None:
    of = published_night(write_job(tmp_path, 'watches = "w"'), USERS)
    (path,) = Path(of.root.path).glob(name)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    with pytest.raises(UnknownVersionError, match="has format_version 3"):
        Reader(of.root.path)


def test_the_reader_imports_nothing_but_what_other_languages_have() -> None:
    tree = ast.parse((REPOSITORY / "tests" / "support" / "serving_reader.py").read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in found} <= {*sys.stdlib_module_names, "pyarrow", "xxhash"}
