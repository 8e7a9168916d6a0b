"""Hooks of MkDocs for `make docs-site`: pages that do not lie in docs/, and links that leave it.

README.md, CHANGELOG.md and docs/notebook.py become pages, and a page has the reference of `pipelines.api` from its
docstrings. A link to a source file becomes its text, because the site does not have these files.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "docs/notebook.py": "notebook.md"}
API = "# Python API\n\n::: pipelines.api\n    options:\n      show_root_heading: false\n"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = to_markdown(text) if source.endswith(".py") else text
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "api.md", content=API))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page."""
    return rewrite_links(markdown, page.file.src_uri)


def rewrite_links(markdown: str, page: str) -> str:
    """Return a page's text, whose links lead to pages and pictures of the site. page: its path in the site."""
    sources = {of: source for source, of in PAGES.items()}
    folder = posixpath.dirname(sources.get(page, f"docs/{page}"))

    def rewrite(link: re.Match[str]) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target:
            return link[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        in_site = PAGES.get(path) or (path.removeprefix("docs/") if re.match(r"docs/.*\.(md|svg|png)$", path) else None)
        if in_site is None:
            return text
        return f"[{text}]({posixpath.relpath(in_site, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(rewrite, markdown)


def to_markdown(notebook: str) -> str:
    """Return a notebook in percent format as Markdown: text cells as they are, code cells as blocks of code."""
    parts = []
    for cell in re.split(r"^# %%", notebook, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        is_text = kind.strip() == "[markdown]"
        parts.append(re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else f"```python\n{body.strip()}\n```\n")
    return "\n".join(parts)
