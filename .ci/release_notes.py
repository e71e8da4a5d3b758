"""Prints what CHANGELOG.md says of the version that a tag names: `python3 .ci/release_notes.py v1.2.3`."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(tag: str) -> str:
    """The text below the heading of that version; ends the program where the tag is not of the present version."""
    [version] = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag} and pyproject.toml has version {version}; correct one of them")
    sections = re.split(r"^## (.*)\n", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    texts = dict(zip(sections[::2], sections[1::2], strict=True))
    text = texts.get(version, "").strip()
    if not text:
        sys.exit(f"CHANGELOG.md says nothing below '## {version}'; name there what is new")
    return text


if __name__ == "__main__":
    print(notes(sys.argv[1]))
