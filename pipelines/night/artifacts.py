"""Names of the files that stages leave in their folders and that other modules read."""

from __future__ import annotations

# nights/DATE/vocabulary
VIDEOS, SEARCH_TOKENS = "videos.parquet", "search_tokens.parquet"
# nights/DATE/model
MODEL_STATE = "state"  # folder: what a later night's training continues from
VIDEO_VECTORS, TRAINING_HISTORY, MODEL_INFO = "video_vectors.parquet", "history.json", "info.json"
