"""What a page of HTML consists of, as a browser would parse it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class HtmlPage(HTMLParser):
    """The elements and texts of a page, in order."""

    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)  # element, name, value
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    @classmethod
    def of(cls, text: str) -> HtmlPage:
        page = cls()
        page.feed(text)
        page.close()
        return page

    @property
    def links(self) -> list[str]:
        """Addresses that the page loads or leads to."""
        return [value for _, name, value in self.attributes if name in ("href", "src", "action")]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
