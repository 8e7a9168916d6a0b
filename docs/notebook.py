# %% [markdown]
# # watchnext from a notebook
# This file is a notebook in percent format, which Jupyter (with jupytext), VS Code and PyCharm open. It needs a job
# whose logs reach up to a night: `make demo` writes one.

# %%
import datetime as dt
import os

import polars as pl

from pipelines.api import open_job

JOB = os.environ.get("JOB", "demo/job.toml")
DATE = dt.date.fromisoformat(os.environ.get("DATE", "2026-11-21"))

# %% [markdown]
# ## Run a night
# Stages that are complete are skipped, so that this cell may run again. It raises `StageError` or `GateError` with the
# reason if the night fails.

# %%
job = open_job(JOB)
end = job.run_night(DATE)
print(end.message)

# %% [markdown]
# ## Lists
# One row per user, or per user and video. Without a date, the night that is served is read.

# %%
lists = job.lists()
long = job.lists(long=True)
some = job.lists(users=lists["user_id"].head(3))
print(some)

# %% [markdown]
# Which videos are first most often?

# %%
titles = job.vectors("videos").select("video_id", "label_count", pl.col("^title$"))
first = long.filter(position=1).group_by("video_id").len("users").sort("users", descending=True)
print(first.join(titles, on="video_id", how="left").head(10))

# %% [markdown]
# ## Vectors
# The score of a video is the product of the user's vector and the video's. Published lists are the videos with the
# highest scores, after exclusions; `neighbours.transitions` and ranking change their order.

# %%
users, videos = job.vectors("users"), job.vectors("videos")
scores = users["vector"].to_list()[0] @ videos["vector"].list.to_array(len(users["vector"][0])).to_numpy().T
print(videos.with_columns(score=pl.Series(scores)).top_k(5, by="score").drop("vector"))

# %% [markdown]
# ## Metrics
# Figures of held-out users for our lists and for the baselines, with 95 % intervals.

# %%
metrics = job.metrics()
print(
    metrics.filter(pl.col("slice").is_null(), pl.col("metric").str.starts_with("recall@")).pivot(
        "metric", index="system", values="value"
    )
)

# %% [markdown]
# Recall over the nights:

# %%
nights = pl.concat([job.metrics(date) for date in job.nights()])
print(nights.filter(pl.col("slice").is_null(), metric="map").pivot("date", index="system", values="value"))
