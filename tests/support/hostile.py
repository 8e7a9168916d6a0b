"""Texts that would do harm on a page that does not escape them, or to a server that takes them for paths."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl
from nights import published_night, write_job

SECRET = "this file is outside of the root"
_PIECES = (
    *(
        "'",
        '"',
        "''",
        '"">',
        "`",
        "\\",
        "&",
        "&amp;",
        "&lt;b&gt;",
        "<",
        ">",
        "<!--",
        "-->",
        "]]>",
        "</bdi>",
        "</title>",
    ),
    "<script>document.title='changed'</script>",
    "</script><script>alert(1)</script>",
    "<img src=x onerror=\"document.title='changed'\">",
    "<img src='https://example.com/outside.png'>",
    "<svg onload=alert(1)>",
    "<style>*{display:none}</style>",
    "</style><link rel=stylesheet href=https://example.com/x.css>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<base href=https://example.com/>",
    "<meta http-equiv=refresh content='0;url=https://example.com/'>",
    "<form action=https://example.com/><button>",
    '" onmouseover="alert(1)" autofocus onfocus="alert(1)" x="',
    "' style='position:fixed;inset:0",
    *("javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "//example.com/", "https://example.com/"),
    *(
        "../../secret.txt",
        "..\\..\\secret.txt",
        "/etc/passwd",
        "%2e%2e%2f%2e%2e%2fsecret.txt",
        "..;/secret.txt",
        "file:///etc",
    ),
    *(
        "\0",
        "\x01\x02",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "\u2029",
        "\ufeff",
        "\ufffe",
        "\r\nSet-Cookie: a=b\r\n\r\n<b>",
    ),
    *("\u202e", "\u2066\u202emp4.exe", "\u200f", "\u061c", "a\u0301\u0302\u0303" * 20, "\u200b", "\u00a0"),
    *("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "深夜の電車", "مرحبا", "ß", "İ", "ﷺ"),
    *("%", "%00", "%0d%0a", "%25", "%u202e", "%zz", "%ff", "+", "?q=1&id=2", "#top", ";", "a=b&c=d"),
    *("{{ 7 * 7 }}", "{% for a in b %}", "{#", "${7*7}", "#{7*7}", "$(id)", "*", "[a-z]", ".*", "(?i)x", "(((("),
    *("' OR 1=1 --", "NULL", "None", "nan", "-1", "1e999", "true", "0x00", "\t", " "),
    *("x" * 5_000, "<" * 3_000, "&" * 2_500, "😀" * 1_000, "/" * 4_000, "\u202e" * 500, "W" * 300 + "<b>"),
)


def hostile_texts(count: int, seed: int = 7) -> list[str]:
    """Return distinct texts: each piece by itself, then random sequences of two to four with a number."""
    drawn, texts = random.Random(seed), dict.fromkeys(_PIECES)
    while len(texts) < count:
        pieces = [drawn.choice(_PIECES) for _ in range(drawn.randint(2, 4))]
        texts[str(drawn.randrange(1_000_000)).join(pieces)] = None
    return list(texts)[:count]


def hostile_job(folder: Path, texts: list[str]) -> Path:
    """A job with a published night whose users, videos and titles are hostile; user and video `plain` are not.

    The list and the similar videos of each text are the two texts after it.
    """
    (folder / "secret.txt").write_text(SECRET)
    job, names = write_job(folder, 'watches = "w"'), ["plain", *texts]
    near = [[names[(n + 1) % len(names)], names[(n + 2) % len(names)]] for n in range(len(names))]
    lists = pl.DataFrame({"user_id": names, "video_ids": near, "scores": [[2.0, 1.0]] * len(names)})
    titles = pl.DataFrame({"video_id": names, "title": [names[0], *reversed(names[1:])]})
    published_night(job, lists, titles=titles, similar=lists.rename({"user_id": "video_id"}))
    return job
