"""Raw logs to the TFRecords of `benchmarks.polars_examples` in SQL: the joins and windows in DuckDB, with two threads.

    python -m benchmarks.peers.duckdb_examples OUT

Reads the logs that `benchmarks.examples` wrote into OUT, with that job's settings, and writes OUT/duckdb:
train.tfrecord.gz and serving.tfrecord.gz. It leaves out what `polars_examples` leaves out, and shares with it the
functions that define a record: `tokenize`, the digests of ids, `write_tfrecords`.
"""

# /// script
# dependencies = ["duckdb==1.4.2"]
# [tool.peers]
# title = "DuckDB"
# with_watchnext = true
# ///

from __future__ import annotations

import argparse
import time
from pathlib import Path

import duckdb
import polars as pl

from benchmarks.peers.protocol import peak_bytes
from benchmarks.polars_examples import (
    AGES_SORTED,
    DAY,
    DRAW_OF_LABELS,
    END,
    HISTORY,
    LED_TO_A_WATCH,
    MAX_EVENTS_PER_DAY,
    MAX_SEQUENCE,
    PER_USER,
    QUANTILES,
    SEED,
    START,
    VOCABULARY,
)
from transforms.core.digests import id_digests, mix
from transforms.examples.tfrecords import write_tfrecords
from transforms.examples.tokens import tokenize

MASK = 2**64 - 1
# splitmix64's finaliser, as `mix` has it; products of 64-bit numbers fit into 128 bits. Macros are expanded in place
# and use their arguments twice, so `mixed` must not be nested: the query would grow eightfold each time.
MIX = f"""
create macro low(x) as (x & {MASK}::uhugeint)::ubigint;
create macro times(x, y) as low(x::uhugeint * y::uhugeint);
create macro finish(z) as xor(z, z >> 31);
create macro second(z) as finish(times(xor(z, z >> 27), {0x94D049BB133111EB}::ubigint));
create macro first_step(z) as second(times(xor(z, z >> 30), {0xBF58476D1CE4E5B9}::ubigint));
create macro mixed(state, value) as first_step(low(xor(state, value)::uhugeint + {0x9E3779B97F4A7C15}::uhugeint));
"""
READ = """
create table all_watches as
select distinct user_id, video_id, epoch_us(time) - {start} as time,
       watch_seconds >= video_seconds * 0.5 as completed, country, device, watch_seconds
from read_parquet('{out}/watches/*.parquet') where epoch_us(time) - {start} between 0 and {last};
create table all_searches as
select distinct user_id, query, epoch_us(time) - {start} as time
from read_parquet('{out}/searches/*.parquet') where epoch_us(time) - {start} between 0 and {last};
create table users as
select user_id, row_number() over (order by user_id) - 1 as user
from (select user_id from all_watches union select user_id from all_searches);
create table robots as
select user_id, time // {day} as day
from (select user_id, time from all_watches union all select user_id, time from all_searches)
group by all having count(*) > {most};
create table videos as
select video_id, row_number() over (order by n desc, video_id) as id
from (select video_id, count(*) as n from all_watches anti join robots
      on all_watches.user_id = robots.user_id and all_watches.time // {day} = robots.day
      where completed group by video_id)
order by n desc, video_id limit {vocabulary};
"""
# `nth`: the number of a user's watch, from 1; `before`, `done`: watches and completed watches strictly earlier in time
WATCHES = """
create table countries as select country as value, row_number() over (order by count(*) desc, country) as id
from all_watches where country is not null group by country;
create table devices as select device as value, row_number() over (order by count(*) desc, device) as id
from all_watches where device is not null group by device;
create table watches as
select user, w.time, w.video_id, completed, coalesce(videos.id, 0) as video,
       row_number() over by_row as nth,
       last_value(countries.id ignore nulls) over by_row as country,
       last_value(devices.id ignore nulls) over by_row as device,
       count(*) over earlier as before,
       count(*) filter (completed) over earlier as done
from all_watches w anti join robots r on w.user_id = r.user_id and w.time // {day} = r.day
join users on users.user_id = w.user_id
left join videos on videos.video_id = w.video_id
left join countries on countries.value = w.country
left join devices on devices.value = w.device
window by_row as (partition by user order by w.time, w.video_id rows unbounded preceding),
       earlier as (partition by user order by w.time range between unbounded preceding and 1 preceding);
create table searches as
select user, s.time, query from all_searches s
anti join robots r on s.user_id = r.user_id and s.time // {day} = r.day
join users on users.user_id = s.user_id;
"""
# `tokens` of a query: the ids of those in the vocabulary, in order
TOKENS = """
create table token_ids as
select token, row_number() over (order by n desc, token) as id
from (select token, count(*) as n from searches join query_tokens using (query) group by token)
order by n desc, token limit {vocabulary};
create table query_ids as
select query, list(id order by place) as tokens from query_tokens join token_ids using (token) group by query;
create table user_tokens as
select user, time, sum(len(tokens)) over (partition by user order by time) as tokens_end, tokens, query
from searches join query_ids using (query);
create table past_tokens as
select user, flatten(list(tokens order by time, query)) as tokens from user_tokens group by user;
create table token_ends as select distinct user, time, tokens_end from user_tokens;
create table past_watches as
select user, list(video order by nth) as watches from watches where completed group by user;
"""
POINTERS = """
create table sampled as
select time, row_number() over (order by user, time, video_id) - 1 as n from watches where completed;
create table ages as
select unnest(quantile_cont((select max(time) from sampled) - time, {quantiles})) as age
from sampled where n % (select count(*) // {ages_sorted} + 1 from sampled) = 0;
create table steps as
select age, row_number() over (order by age) - 1 as step, lead(age) over (order by age) as next from ages;
create table labels as
select l.user, l.time, l.video_id, l.video as label, l.nth, l.done as watches_end,
       p.country, p.device, greatest(coalesce(p.time, 0), l.time - {led}) as asked
from watches l left join watches p on p.user = l.user and p.nth = l.before
where l.completed and l.video > 0;
create table reached as
select l.*, coalesce(t.tokens_end, 0) as tokens_end
from labels l asof left join token_ends t on l.user = t.user and l.asked > t.time
qualify greatest(watches_end - {history}, 0) >= max(watches_end) over (partition by l.user) - {sequence}
    and greatest(coalesce(t.tokens_end, 0) - {history}, 0)
        >= max(coalesce(t.tokens_end, 0)) over (partition by l.user) - {sequence};
create table user_states as select user, mixed({state}::ubigint, digest) as state from user_digests;
create table states as
select r.*, mixed(u.state, v.digest) as state
from reached r join user_states u using (user) join video_digests v using (video_id);
create table train as
select *, (select max(time) from sampled) - time as age from states
qualify row_number() over (partition by user order by mixed(state, (time + {start})::ubigint)) <= {per_user};
create table train_pointers as
select user, nth, label, watches_end, tokens_end, coalesce(country, 0) as country, coalesce(device, 0) as device,
       case when step is null then 0.0 when next is null then 1.0
            else (step + (train.age - steps.age) / greatest(next - steps.age, 1e-9)) / {last_step}
       end::float as example_age
from train asof left join steps on train.age >= steps.age;
create table serving_pointers as
select users.user, 1 as nth, coalesce(len(watches), 0) as watches_end, coalesce(len(tokens), 0) as tokens_end,
       coalesce(last.country, 0) as country, coalesce(last.device, 0) as device, 0.0::float as example_age
from users left join past_watches using (user) left join past_tokens using (user)
left join (select user, arg_max(country, nth) as country, arg_max(device, nth) as device
           from watches group by user) last
using (user);
"""
RECORDS = """
with grouped as (
    select user, max(watches_end) as w, max(tokens_end) as t, list(watches_end order by nth) as watches_ends,
           list(tokens_end order by nth) as tokens_ends, list(example_age order by nth) as example_age,
           list(country order by nth) as country, list(device order by nth) as device, {label} as label
    from {pointers} group by user)
select user_id, coalesce(watches[greatest(w - {sequence}, 0) + 1 : w], []) as watches,
       [greatest(x - greatest(w - {sequence}, 0), 0) for x in watches_ends] as watches_end,
       coalesce(tokens[greatest(t - {sequence}, 0) + 1 : t], []) as tokens,
       [greatest(x - greatest(t - {sequence}, 0), 0) for x in tokens_ends] as tokens_end,
       example_age, country, device, label
from grouped join users using (user) left join past_watches using (user) left join past_tokens using (user)
"""


def main(out: Path) -> None:
    began = time.monotonic()
    folder = out / "duckdb"
    folder.mkdir(exist_ok=True)
    found = duckdb.connect()
    found.execute("set threads = 2; set preserve_insertion_order = false")
    for tables in (MIX, READ, WATCHES):
        run(found, tables, out)
    _say(began, "read and ordered")
    register_queries(found)
    run(found, TOKENS, out)
    register_digests(found)
    run(found, POINTERS, out)
    _say(began, "labels drawn")
    for name, label in (("train", "list(label order by nth)"), ("serving", "[]::bigint[]")):
        write_tfrecords(records(found, name, label), str(folder), f"{name}.tfrecord.gz")
    _say(began, "records written")
    print(f"peak memory {peak_bytes() / 2**30:.1f} GiB", flush=True)


def run(found: duckdb.DuckDBPyConnection, tables: str, out: Path) -> None:
    """Create tables; settings of the job take the places of names in braces."""
    found.execute(
        tables.format(
            out=out,
            start=START,
            last=END - 1,
            day=DAY,
            most=MAX_EVENTS_PER_DAY,
            vocabulary=VOCABULARY,
            led=LED_TO_A_WATCH,
            history=HISTORY,
            sequence=MAX_SEQUENCE,
            per_user=PER_USER,
            ages_sorted=AGES_SORTED,
            quantiles=QUANTILES.tolist(),
            last_step=len(QUANTILES) - 1,
            state=int(mix(SEED, DRAW_OF_LABELS)[0]),
        )
        if tables is not MIX
        else tables
    )


def register_queries(found: duckdb.DuckDBPyConnection) -> None:
    """Create query_tokens: query, token, place. Each distinct query is tokenized once, by the product's function."""
    queries = found.sql("select distinct query from searches").pl()["query"]
    cut = tokenize(queries).with_row_index("place")
    found.register("cut", cut.select("place", "token", query=queries.gather(cut["at"])).to_arrow())
    found.execute("create table query_tokens as select * from cut")


def register_digests(found: duckdb.DuckDBPyConnection) -> None:
    for name, key in (("user", "user_id"), ("video", "video_id")):
        ids = found.sql(f"select * from {name}s").pl()
        found.register("digests", ids.with_columns(digest=id_digests(ids[key])).to_arrow())
        found.execute(f"create table {name}_digests as select * from digests")


def records(found: duckdb.DuckDBPyConnection, name: str, label: str) -> pl.DataFrame:
    """Return one row per user in the format of `transforms.contracts.example_spec`."""
    rows = found.sql(RECORDS.format(pointers=f"{name}_pointers", label=label, sequence=MAX_SEQUENCE)).pl()
    integers = [column for column in rows.columns if column not in ("user_id", "example_age")]
    return rows.with_columns(pl.col(integers).cast(pl.List(pl.Int64)))


def _say(began: float, what: str) -> None:
    print(f"{what} after {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    main(parser.parse_args().out)
