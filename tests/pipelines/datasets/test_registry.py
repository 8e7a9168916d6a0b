"""Every data set, on tiny files of its published form."""

from __future__ import annotations

import datetime as dt
import gzip
from pathlib import Path

import polars as pl
import pytest
from public_data import RATED, SAMPLES, Sample, Watch, write_files

from pipelines.config.jobs import load_job
from pipelines.datasets.data_set import Request
from pipelines.datasets.importing import Result, import_data_set
from pipelines.datasets.registry import DATA_SETS
from pipelines.datasets.splits import PublishedSplit, Split
from pipelines.datasets.tables import DataSetError
from transforms.logs.readers import LogError, read_log
from transforms.logs.schemas import USERS, VIDEOS, WATCHES

TSV_1K = "userid-timestamp-artid-artname-traid-traname.tsv"


def imported(name: str, tmp_path: Path, *, split: Split | None = None, completed_from: float | None = None) -> Result:
    """Write the sample of a data set, and import it to `tmp_path / "out"`."""
    (tmp_path / "in").mkdir(parents=True)
    path = SAMPLES[name].write(tmp_path / "in")
    request = Request(completed_from=completed_from or DATA_SETS[name].completed_from)
    return import_data_set(DATA_SETS[name], path, tmp_path / "out", request=request, split=split)


def watches(out: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted(out.glob("watches/*.parquet")))


def rows(out: Path) -> list[Watch]:
    return watches(out).select("user_id", "video_id", "time", "completed").rows()


def test_every_data_set_has_a_sample() -> None:
    assert SAMPLES.keys() == DATA_SETS.keys()


@pytest.mark.parametrize("name", DATA_SETS)
def test_watches_are_those_of_the_files(name: str, tmp_path: Path) -> None:
    sample, result = SAMPLES[name], imported(name, tmp_path)
    assert sorted(rows(tmp_path / "out")) == sorted(sample.watches)
    assert result.watches == len(sample.watches)
    for path in (tmp_path / "out" / "watches").iterdir():
        zone = DATA_SETS[name].time_zone
        days = pl.read_parquet(path)["time"].dt.convert_time_zone(zone).dt.date().unique().to_list()
        assert [str(day) for day in days] == [path.stem]


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.videos])
def test_videos_have_titles(name: str, tmp_path: Path) -> None:
    imported(name, tmp_path)
    videos = pl.read_parquet(tmp_path / "out" / "videos.parquet")
    titles = (
        videos["title"] if "title" in videos.columns else pl.repeat(None, videos.height, dtype=pl.String, eager=True)
    )
    assert dict(zip(videos["video_id"], titles, strict=True)) == SAMPLES[name].videos


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_night_can_read_the_tables_and_the_job(name: str, tmp_path: Path) -> None:
    result = imported(name, tmp_path)
    out = tmp_path / "out"
    job = load_job(str(out / "job.toml"))
    assert job.logs.watches == str(out / "watches" / "{date}.parquet")
    tables = {"videos": VIDEOS, "users": USERS}
    for table, columns in tables.items():
        path = out / f"{table}.parquet"
        assert (getattr(job.logs, table) is not None) == path.exists()
        if path.exists():
            assert sum(frame.rows.height for frame in read_log(str(path), columns, {})) > 0
    for path in sorted(out.glob("watches/*.parquet")):
        for frame in read_log(str(path), WATCHES, {}):
            assert frame.broken.is_empty() and frame.rows["completed"].null_count() == 0
    assert result.imported.date == max(result.imported.days) + dt.timedelta(days=1)
    assert job.examples.window_days >= (result.imported.date - min(result.imported.days)).days


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in ("events", "sequences")])
def test_a_folder_without_the_files_names_them_and_where_to_get_them(name: str, tmp_path: Path) -> None:
    data_set = DATA_SETS[name]
    with pytest.raises(DataSetError) as caught:
        data_set.find(tmp_path)
    message = str(caught.value)
    assert data_set.page in message and data_set.licence in message and data_set.size in message
    assert any(shown in message for shown in data_set.files[0].names)
    with pytest.raises(DataSetError, match="does not exist; get"):
        data_set.find(tmp_path / "absent")


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name != "sequences"])
@pytest.mark.parametrize("content", [b"", b"not,the\ncolumns,1\n"])
def test_an_empty_file_and_wrong_columns_are_errors(name: str, content: bytes, tmp_path: Path) -> None:
    path = SAMPLES[name].write(tmp_path)
    source = DATA_SETS[name].find(path)
    first = next(iter(source.files.values()))
    first.write_bytes(_compressed(content, first))
    with pytest.raises((DataSetError, LogError)) as caught:
        import_data_set(
            DATA_SETS[name], path, tmp_path / "out", request=Request(completed_from=DATA_SETS[name].completed_from)
        )
    assert str(first) in str(caught.value) or "a wrong number of values" in str(caught.value)
    assert not (tmp_path / "out").exists()


def _compressed(content: bytes, path: Path) -> bytes:
    return gzip.compress(content) if path.suffix == ".gz" else content


@pytest.mark.parametrize("name", ["amazon-2018", "amazon-2023", "events"])
def test_a_truncated_file_is_an_error_and_nothing_is_left(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = SAMPLES[name].write(tmp_path / "in")
    first = next(iter(DATA_SETS[name].find(path).files.values()))
    first.write_bytes(first.read_bytes()[:-12])
    with pytest.raises(LogError, match="not a complete"):
        import_data_set(DATA_SETS[name], path, tmp_path / "out", request=Request(completed_from=0.0))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["movielens-1m", "movielens-32m", "kuairand-pure", "kuairec"])
def test_a_rating_or_share_can_be_another_threshold(name: str, tmp_path: Path) -> None:
    imported(name, tmp_path, completed_from=0.01)
    assert watches(tmp_path / "out")["completed"].all()
    text = (tmp_path / "out" / "job.toml").read_text(encoding="utf-8")
    assert f"a {DATA_SETS[name].measure} of at least 0.01" in text


def test_times_in_another_unit_are_an_error(tmp_path: Path) -> None:
    ratings = "userId,movieId,rating,timestamp\n" + "".join(f"1,{n},4,978300760000\n" for n in range(3))
    path = write_files(tmp_path / "in", {"ratings.csv": ratings, "movies.csv": "movieId,title,genres\n1,a,b\n"})
    with pytest.raises(
        DataSetError, match=r"of 3 rows, 3 have no time, or one that cannot be read: is this MovieLens 32M.*unit"
    ):
        import_data_set(DATA_SETS["movielens-32m"], path, tmp_path / "out", request=Request(completed_from=4.0))


def test_a_few_rows_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    good = "".join(f"1::{n}::4::{978_300_760 + n}\n" for n in range(100))
    bad = "1::2::4\n::3::5::978300760\n1::4::five::978300760\n1::5::5::never\n"
    path = write_files(tmp_path / "in", {"ratings.dat": good + bad, "movies.dat": "1::a::b\n"})
    result = import_data_set(DATA_SETS["movielens-10m"], path, tmp_path / "out", request=Request(completed_from=4.0))
    assert result.left_out == {
        "a wrong number of values": 1,
        "no user": 1,
        "no rating, or one that cannot be read": 1,
        "no time, or one that cannot be read": 1,
    }
    assert result.watches == 100


def test_later_events_than_the_publisher_states_are_left_out(tmp_path: Path) -> None:
    result = imported("lastfm-1k", tmp_path)
    assert result.left_out == {"a time after 2009-06-20": 1}
    assert result.imported.date == dt.date(2009, 5, 5)


def test_the_published_split_of_mind_and_kuairand(tmp_path: Path) -> None:
    result = imported("mind", tmp_path / "mind", split=PublishedSplit())
    out = tmp_path / "mind" / "out"
    assert pl.read_parquet(out / "truth.parquet").rows() == [("U2", "N5")]
    assert ("U2", "N5") not in {row[:2] for row in rows(out)} and result.truths == {"truth": 1}
    result = imported("kuairand-pure-processed", tmp_path / "kuai", split=PublishedSplit())
    out = tmp_path / "kuai" / "out"
    for name in ("truth", "truth_validation"):
        assert pl.read_parquet(out / f"{name}.parquet").rows() == [("7", "12"), ("7", "13")]
    assert result.watches == 3 and not {"part", "wanted"} & set(watches(out).columns)


def test_amazon_reviews_without_products_and_ratings_without_a_header(tmp_path: Path) -> None:
    path = write_files(tmp_path / "in", {"Books.csv": f"B1,A1,5.0,{978_300_760}\nB2,A1,2.0,{978_300_761}\n"})
    import_data_set(DATA_SETS["amazon-2018"], path / "Books.csv", tmp_path / "out", request=Request(completed_from=3.0))
    assert [row[:2] + row[3:] for row in rows(tmp_path / "out")] == [("A1", "B1", True), ("A1", "B2", False)]
    assert not (tmp_path / "out" / "videos.parquet").exists()


def test_several_categories_or_editions_below_one_folder_are_an_error(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/ratings.csv": "x", "b/ratings.csv": "x", "Books.csv": "x", "Toys.csv": "x"})
    with pytest.raises(DataSetError, match=r"several files ratings\.csv"):
        DATA_SETS["movielens-32m"].find(tmp_path)
    with pytest.raises(DataSetError, match=r"several categories: Books.csv, Toys.csv; give one of the files as PATH"):
        DATA_SETS["amazon-2018"].find(tmp_path)


def test_an_archive_is_unpacked_first(tmp_path: Path) -> None:
    archive = tmp_path / "ml-32m.zip"
    archive.write_bytes(b"PK")
    for path in (archive, tmp_path):
        with pytest.raises(DataSetError, match=r"unpack it first \(unzip ml-32m.zip\)"):
            DATA_SETS["movielens-32m"].find(path)


def test_compressed_files_of_a_data_set_are_found(tmp_path: Path) -> None:
    lines = "".join(f"{user}::{video}::5::{int(time.timestamp())}\n" for user, video, time, _ in RATED)
    path = write_files(tmp_path / "in", {"ml-10M100K/ratings.dat.gz": lines, "ml-10M100K/movies.dat": "1::a::b\n"})
    import_data_set(DATA_SETS["movielens-10m"], path, tmp_path / "out", request=Request(completed_from=4.0))
    assert len(rows(tmp_path / "out")) == 3


def test_the_large_edition_of_mind_has_other_folders(tmp_path: Path) -> None:
    sample: Sample = SAMPLES["mind"]
    sample.write(tmp_path / "in")
    for part in ("train", "dev"):
        (tmp_path / "in" / f"MINDsmall_{part}").rename(tmp_path / "in" / f"MINDlarge_{part}")
    import_data_set(DATA_SETS["mind"], tmp_path / "in", tmp_path / "out")
    assert sorted(rows(tmp_path / "out")) == sorted(sample.watches)
