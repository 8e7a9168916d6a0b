"""Lists from Redis over HTTP: REDIS_URL=redis://localhost:6379/0 uvicorn redis_endpoint:app --workers 4"""

import os
import time
import zlib
from typing import Annotated, Any

import redis
from fastapi import FastAPI, HTTPException, Query

PREFIX, REFRESH_SECONDS = "watchnext", 60
server: Any = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0"), socket_timeout=0.5)
served: dict[str, Any] = {"version": "", "read_at": 0.0}
app = FastAPI()


def served_version() -> str:
    if not served["version"] or time.monotonic() >= served["read_at"] + REFRESH_SECONDS:
        served.update(version=(server.get(f"{PREFIX}:night") or b"").decode(), read_at=time.monotonic())
    return str(served["version"])


@app.get("/videos")
def videos(user: str, country: str = "", k: Annotated[int, Query(ge=1, le=200)] = 50) -> dict[str, Any]:
    """Return the first k videos of the user's list, or else of the default list of the country or of all countries."""
    try:
        version = served_version()  # one request is answered from one version
        names = (f":{user}", f".default:{country}", ".default:")
        values = server.mget([f"{PREFIX}:{version}{name}" for name in names])
    except redis.RedisError as error:
        raise HTTPException(503, "Redis does not answer") from error
    for kind, value in zip(("user", country or "all countries", "all countries"), values, strict=True):
        if value is not None:
            ids = zlib.decompress(value).partition(b"\n\n")[0].decode()
            return {"night": version[:10], "list": kind, "video_ids": ids.split("\n")[:k] if ids else []}
    raise HTTPException(503, "no night is loaded")
