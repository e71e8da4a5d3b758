"""Refuses answers that would give a broken project, before anything is written."""

import json
import re
import sys

RESERVED_ON_WINDOWS = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
NOT_IN_A_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def complaint(answers: dict) -> str:
    """One line on the first answer that cannot be used, or nothing."""
    slug = answers["project_slug"]
    # The rule of package names (PEP 508), since the slug is one in pyproject.toml.
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", slug) or RESERVED_ON_WINDOWS.fullmatch(slug):
        return (
            f"project_slug {slug!r} cannot name a folder and a package: use letters, digits, '-', '_' and '.', "
            "begin and end with a letter or digit, and avoid names that Windows reserves"
        )
    for name in ("project_name", "author_name"):
        if found := NOT_IN_A_LINE.search(answers[name]):
            return f"{name} {answers[name]!r} has the line break or control character {found[0]!r}: leave it out"
    return ""


def main(answers: dict) -> int:
    """The exit status: 1 stops cookiecutter."""
    problem = complaint(answers)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main(json.loads(r"""{{ cookiecutter | tojson }}""")))
