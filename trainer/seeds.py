"""Seeds for TensorFlow's stateless random ops, derived from their purpose, so that no draw depends on earlier draws."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> tuple[int, int]:
    """Return two int32 for a stateless op, the same in every process for the same `seed` and `purpose`."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little", signed=True), int.from_bytes(digest[4:], "little", signed=True)
