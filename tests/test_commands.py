"""The commands that a rendered project names, in its README and in its CI, do what is said there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUESTIONS, ROOT, Render
from PIL import Image
from scripts import run_script

INSTALLS = "downloads some GB"
NOT_RUN = {
    "python -m venv .venv && . .venv/bin/activate": "changes the shell that it is typed in",
    'python -m pip install ".[dev]"': INSTALLS,
    "uv sync --extra dev && uv run train.py --smoke": INSTALLS,
    "torchrun --standalone --nproc-per-node 8 --max-restarts 3 train.py": "in test_distributed.py a process dies",
    "torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 3 --rdzv-backend c10d "
    "--rdzv-endpoint FIRST_MACHINE:29400 --rdzv-id NAME_OF_THE_RUN train.py": "test_distributed.py, the same",
    "sbatch scripts/slurm.sh": "test_distributed.py, with stand-ins for what Slurm brings",
    "python -m pytest": "with what CI runs, below",
    "ruff check . && ruff format --check . && mypy": "the same",
}
TORCHRUN = "torchrun --nproc-per-node 8 train.py"
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
    NOT_RUN[f"{TORCHRUN} --strategy fsdp"] = "fsdp on CPUs needs a newer torch"
if os.name != "posix":
    NOT_RUN |= dict.fromkeys([TORCHRUN, f"{TORCHRUN} --strategy fsdp"], "processes that train together need signals")

# What stands in a command for what the reader has, or would take long, and what the test puts there.
STAND_INS = {
    r"\bFOLDER\b": "own",
    r"FILE\.csv|TABLE\.csv\.\.\.": "own/train.csv",
    r"FILE\.tsv": "stars.tsv",
    r"COLUMN": "price",
    r"\bSTREET\b": "street",
    r"\bPERSON\b": "person",
    r"\bDATE\b": "date",
    r"IMAGE_OR_FOLDER\.\.\.|FILE\.\.\.": "new",
    r"INPUT\.\.\.": "like_synthetic.csv",
    r"--epochs 40": "--epochs 2",
    r"nproc-per-node 8": "nproc-per-node 2",
    r"python -m pip install cookiecutter && ": "",
}
MORE = {  # flags after a command that begins so
    "python train.py --smoke": "",
    "python train.py --show_lr": "",
    "python train.py --resume": "",
    "python train.py": "--epochs 1 --width 8 --warm_up_epochs 0.5",
    "torchrun": "--epochs 1 --width 8 --warm_up_epochs 0.5 --device cpu",
    "python -m tensorboard.main": "--inspect",  # what would be shown, in place of showing it until Ctrl-C
    "python -m pytest": "-k readme",  # all of them run in test_combinations.py
    "python scripts/regenerate.py": f"--template {shlex.quote(str(ROOT))}",
}


def sections(readme: str) -> dict[str, list[str]]:
    """The commands under each heading. A block of code is one of commands where it begins with a program's name."""
    found: dict[str, list[str]] = {}
    for heading, text in re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", readme, re.MULTILINE):
        blocks = re.findall(r"(?:^    .*\n?)+", text.replace("\\\n", ""), re.MULTILINE)
        lines = [line for block in blocks if re.match(r"    [a-z]+ ", block) for line in block.splitlines()]
        found[heading] = [re.sub(r" +", " ", re.sub(" {2,}#.*", "", line)).strip() for line in lines]
    return found


def as_run(command: str) -> str:
    """The command as the test runs it."""
    for pattern, value in STAND_INS.items():
        command = re.sub(pattern, value, command)
    more = next((flags for start, flags in MORE.items() if command.startswith(start)), "")
    data = " --data synthetic" if "--width" in more and "--data" not in command else ""
    return f"{command} {more}{data}"


# ---- files that a reader may have ----


def images(*names: str) -> None:
    """A small image in each file."""
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 20 + number).convert("RGB").save(name)


def table(name: str, header: str, row: str) -> None:
    """Rows 0 to 29: in `row` N is the number, and P is 0 or 1 in turn."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    rows = [row.replace("N", str(n)).replace("P", str(n % 2)) for n in range(30)]
    Path(name).write_text("\n".join([header, *rows]) + "\n", "utf-8")


def own_classes() -> None:
    images(*(f"own/train/{name}/{number}.jpg" for name in ("cat", "dog") for number in range(6)), "new/1.jpg")


def own_labels() -> None:
    images(*(f"own/images/{number}.jpg" for number in range(30)), "new/1.jpg")
    table("own/labels.csv", "file,beach,sea", "N.jpg,P,1")


def own_table() -> None:
    table("own/train.csv", "rooms,city,street,person,date,price", "N,town P,street P,pN,N,1N")
    table("like_synthetic.csv", "a,b,kind", "N,P,low")


def own_rows() -> None:
    table("own/train.csv", "rooms,city,street,person,date,price", "N,town P,street P,pN,N,P")
    table("like_synthetic.csv", "a,b,place", "N,P,hill")


def own_masks() -> None:
    images(*(f"own/train/images/{number}.jpg" for number in range(6)), "new/1.jpg")
    Path("own/train/masks").mkdir()
    for number in range(6):
        Image.linear_gradient("L").resize((40, 40)).point(lambda v: v // 128).save(f"own/train/masks/{number}.png")


def own_texts() -> None:
    table("own/train.csv", "text,label", "a kind of text N,P")
    table("stars.tsv", "review\tstars", "it is N\tP")
    table("new", "", "what about this N")


OWN: dict[str, Callable[[], None]] = {
    "image_classification": own_classes,
    "multilabel_classification": own_labels,
    "regression": own_table,
    "segmentation": own_masks,
    "tabular_classification": own_rows,
    "text_classification": own_texts,
}


# ---- the README ----


def run(project: Path, command: str, output: Path) -> None:
    """Runs a line as a shell would, in processes that have torch already."""
    for part in command.split(" && "):
        newest = max((path.name for path in (project / "check_point").glob("*")), default="")
        program, *words = shlex.split(part.replace("<date>_<time>", newest))
        if program == "python" and words[0] != "-m":
            status, said = run_script(project, words, output)
        else:
            module = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}.get(program, ["-m", program])
            call = [sys.executable, *module, *words]
            done = subprocess.run(call, cwd=project, capture_output=True, text=True)
            status, said = done.returncode, done.stdout + done.stderr
        assert status == 0, f"{part}:\n{said}"


@pytest.mark.parametrize("task", QUESTIONS["task_type"])
def test_every_command_in_the_readme_works(
    task: str, render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = render(task_type=task)
    monkeypatch.chdir(project)
    OWN[task]()
    for heading, commands in sections((project / "README.md").read_text("utf-8")).items():
        if task == "regression" or heading in ("Train", "Predict"):  # all else is the same in every task
            for command in commands:
                if command not in NOT_RUN:
                    run(project, as_run(command), tmp_path / "output")


def test_the_commands_that_are_not_run_are_in_the_readme_as_they_are_here(render: Render) -> None:
    found = sections((render() / "README.md").read_text("utf-8"))
    assert NOT_RUN.keys() <= {command for commands in found.values() for command in commands}


# ---- the CI ----


def steps(project: Path) -> list[str]:
    """The commands of the workflow, in their order."""
    workflow = yaml.safe_load((project / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert workflow[True] == ["push", "pull_request"]  # YAML 1.1 reads the key "on" as a truth
    [job] = workflow["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def test_the_ci_installs_and_checks_with_the_commands_of_the_readme(render: Render) -> None:
    project = render()
    found = sections((project / "README.md").read_text("utf-8"))
    install, *checks = steps(project)
    assert install in found["Set up"]
    assert sorted(checks) == sorted(part for command in found["Check"] for part in command.split(" && "))


def test_the_commands_of_the_ci_succeed(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    for command in steps(project)[1:]:
        run(project, as_run(command), tmp_path / "output")


def test_the_workflow_holds_no_jinja(render: Render) -> None:
    assert not re.search(r"(?<!\$)\{\{|\{%", (render() / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
