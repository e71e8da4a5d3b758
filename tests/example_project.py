"""The rendered project to read in example/: `python tests/example_project.py` writes it anew."""

import shutil
import tempfile
from pathlib import Path

from conftest import ROOT, SOURCE, render_plainly, write_config

EXAMPLE = ROOT / "example"


def rendered(folder: Path) -> dict[str, str]:
    """What the default answers give, by path; without the files that are the same in every project.

    And without LICENSE, which names the present year.
    """
    project = render_plainly(folder, write_config(folder))
    texts = {p.relative_to(project).as_posix(): p.read_text("utf-8") for p in project.rglob("*") if p.is_file()}
    del texts["LICENSE"]
    same = {p.relative_to(SOURCE).as_posix(): p.read_text("utf-8") for p in SOURCE.rglob("*") if p.is_file()}
    return {name: text for name, text in texts.items() if same.get(name) != text}


if __name__ == "__main__":
    shutil.rmtree(EXAMPLE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        for name, text in rendered(Path(temporary)).items():
            (EXAMPLE / name).parent.mkdir(parents=True, exist_ok=True)
            (EXAMPLE / name).write_text(text, "utf-8", newline="\n")
