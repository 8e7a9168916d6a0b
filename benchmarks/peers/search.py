"""Bulk lists of 200 at equal recall: watchnext's ScaNN index and its exclusion of watched videos, next to Faiss.

    python -m benchmarks.peers.search OUT [--videos 1000000] [--dimension 256] [--users 65536] [--again NAME]

Vectors of videos and users are those of `benchmarks.search`, with a bias as the last dimension; each user has watched
up to 200 of their nearest videos, few of them most of these. All indexes are tuned on the same 1,024 users to a
recall@200 of .95, and measured on other users: recall of the lists without watched videos, compared with exact search,
and users per second, the best of two runs. Faiss runs in OUT/envs/faiss_search: HNSW, IVF-PQ with 4-bit fast scan and
with 8-bit codes, both refined by the vectors themselves, and exact search, on a part of the users. An index is
searched as deep as a user's exclusions need, in groups of users, in both. Each row is a file OUT/rows/NAME.json, which
an interrupted call leaves and the next one goes on after; --again measures a row anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.environments import REPOSITORY, install, read_peer
from benchmarks.peers.faiss_search import RECALL, K, Searched, recall_of, record, users_per_second
from benchmarks.search import draw, seen
from transforms.search.exact_search import ExactIndex
from transforms.search.exclusions import Excluded
from transforms.search.top_k import build_index, top_k

ROWS = {
    "scann": "watchnext: ScaNN",
    "exact": "watchnext: exact",
    "hnsw": "Faiss: HNSW",
    "ivf_pq_fast": "Faiss: IVF-PQ, 4-bit fast scan, refined",
    "ivf_pq": "Faiss: IVF-PQ, 8-bit, refined",
    "flat": "Faiss: exact",
}
OURS = ("scann", "exact")
SAMPLED, COMPARED, EXACT_SHARE = 1_024, 2_048, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--users", type=int, default=65_536)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--again", choices=ROWS, action="append", default=[])
    parser.add_argument("--part", choices=OURS, help="run by the benchmark itself")
    args = parser.parse_args()
    out = args.out.absolute()
    if args.part:
        measure_ours(out, args.part)
        return
    (out / "rows").mkdir(parents=True, exist_ok=True)
    if not (out / "prepared.json").exists():
        prepare(out, args.videos, args.dimension, args.users)
    for name in args.rows:
        row = out / "rows" / f"{name}.json"
        if name in args.again or not row.exists():
            command = [sys.executable, "-m", "benchmarks.peers.search", str(out), "--part", name]
            if name not in OURS:
                python = install(read_peer("faiss_search"), out / "envs")
                command = [python, "-m", "benchmarks.peers.faiss_search", str(out), name]
            subprocess.run(command, check=True, cwd=REPOSITORY)
    print(table([json.loads(path.read_text(encoding="utf-8")) for path in sorted((out / "rows").glob("*.json"))]))


def prepare(out: Path, videos: int, dimension: int, users: int) -> None:
    """Write vectors, users, exclusions, and the true lists of the first users, for tuning, and of the last ones."""
    vectors, queries = draw(videos, users, dimension)
    bias = np.random.default_rng(1).standard_normal((videos, 1), np.float32)
    vectors = np.concatenate([vectors, bias], axis=1)
    queries = np.concatenate([queries, np.ones_like(queries[:, :1])], axis=1)
    index = build_index(vectors, k=K, queries=queries[:SAMPLED], recall=RECALL)
    excluded = seen(index, queries, most=K)
    some = queries[-COMPARED:]
    own = excluded.positions[excluded.offsets[len(queries) - COMPARED] :]
    offsets = excluded.offsets[len(queries) - COMPARED :] - excluded.offsets[len(queries) - COMPARED]
    exact = ExactIndex(vectors=vectors)
    true = top_k(exact, some, k=K, excluded=Excluded(offsets=offsets, positions=own)).positions
    arrays: dict[str, NDArray[Any]] = {
        "vectors": vectors,
        "users": queries,
        "offsets": excluded.offsets,
        "watched": excluded.positions,
        "true": true,
        "tuning": exact.search(queries[:SAMPLED], K).positions,
    }
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)
    given = {"videos": videos, "dimension": dimension, "users": users}
    (out / "prepared.json").write_text(json.dumps(given), encoding="utf-8")


def measure_ours(out: Path, name: str) -> None:
    """Build and measure an index of the product in a process of its own."""
    given = Searched.read(out)
    began = time.perf_counter()
    exact_below = 0 if name == "scann" else len(given.vectors) + 1
    index = build_index(given.vectors, k=K, queries=given.users[:SAMPLED], recall=RECALL, exact_below=exact_below)
    built = time.perf_counter() - began
    share = 1 if name == "scann" else EXACT_SHARE

    def lists(rows: slice) -> Any:
        offsets, watched = given.exclusions(rows)
        excluded = Excluded(offsets=offsets, positions=watched.astype(np.int32))
        return top_k(index, given.users[rows], k=K, excluded=excluded).positions

    rate = users_per_second(lists, len(given.users) // share)
    seconds = index.timings.get("build_seconds", built), index.timings.get("tuning_seconds", 0.0)
    found = recall_of(lists(given.compared), given.true)
    record(out, name, build=seconds[0], tuning=seconds[1], recall=found, rate=rate, parameters=str(index.info))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, the fastest first."""
    lines = [
        "| index | built, s | tuned, s | recall@200 | users/s | memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["users_per_second"]):
        figures = f"{row['build_seconds']:.0f} | {row['tuning_seconds']:.0f} | {row['recall']:.3f}".replace("0.", ".")
        memory = row["peak_bytes"] / 2**30
        lines.append(f"| {ROWS[row['name']]} | {figures} | {row['users_per_second']:,.0f} | {memory:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
