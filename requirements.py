"""Gives each pin with extras in a requirements file one line without them and one for each of them.

    python requirements.py FILE [OTHER]         # leaves out of FILE what OTHER pins already

pip before 23.3, which Python 3.11 comes with, does not see that `name[extra]==1` pins `name` too, nor the other way
round, and refuses to install such a file by hashes (github.com/pypa/pip/issues/12345). `make requirements` runs it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

PIN = re.compile(r"(?P<name>[\w.-]+)\[(?P<extras>[\w, -]+)\](?P<rest>==.*)", re.DOTALL)


def pins(text: str) -> list[str]:
    """The pins of a requirements file, each with the lines that belong to it: hashes and comments."""
    return re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]


def one_for_each_extra(pin: str) -> Iterator[str]:
    """The pin without extras, then with each of its extras alone; who requires it is said once."""
    found = PIN.fullmatch(pin)
    if not found:
        yield pin
        return
    yield found["name"] + found["rest"]
    hashes = re.sub(r"^ *#.*\n", "", found["rest"], flags=re.MULTILINE)
    for extra in found["extras"].split(","):
        yield f"{found['name']}[{extra.strip()}]{hashes}"


def main(path: Path, *others: Path) -> None:
    """Rewrite a file; the names of pins that other files have, extras included, are theirs alone."""
    there = {_name(pin) for other in others for pin in pins(other.read_text(encoding="utf-8"))}
    separate = [one for pin in pins(path.read_text(encoding="utf-8")) for one in one_for_each_extra(pin)]
    path.write_text("".join(pin for pin in separate if _name(pin) not in there), encoding="utf-8")


def _name(pin: str) -> str:
    return pin.partition("==")[0]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
