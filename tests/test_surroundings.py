"""Runs as they are in containers, on clusters and on shared disks: little shared memory, processes that die, locks."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SOURCE, Render
from engine import UserError, checkpoint
from engine.checkpoint.run_folder import locked
from engine.data import workers
from engine.data.loaders import sample_means
from engine.data.splits import Split
from engine.data.workers import Loader
from faults import BASE
from scripts import run_script, start_script
from small import Small, data, weights
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm, /proc")


# ---- shared memory ----


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No tensor finds room in shared memory; workers, which are forked, inherit that."""

    def refuse(tensor: Tensor) -> None:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(Tensor, "share_memory_", refuse)
    workers.note_short_memory.cache_clear()
    yield
    workers.note_short_memory.cache_clear()


@linux
@pytest.mark.usefixtures("short_memory")
def test_batches_without_room_in_shared_memory_come_through_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    dataset = TensorDataset(torch.randn(10, 3), torch.arange(10))
    batches = list(Loader(dataset, 4, num_workers=2))
    for (x, y), (expected_x, expected_y) in zip(batches, DataLoader(dataset, 4), strict=True):
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"note: /dev/shm has \d+ MB free of \d+: batches that do not fit there come through a pipe, which takes "
        r"longer; docker run --shm-size=2g gives it more\n",
        said,
    )


def a_mistake(samples: Any) -> Any:
    """Collates nothing."""
    raise RuntimeError("a mistake of one's own")


@linux
def test_other_errors_of_workers_are_handed_on() -> None:
    with pytest.raises(RuntimeError, match="a mistake of one's own"):
        list(Loader(TensorDataset(torch.zeros(4)), 2, num_workers=1, collate_fn=a_mistake))


IN_CONTAINER = """
import torch
from engine.data.workers import Loader
from torch.utils.data import TensorDataset

batches = list(Loader(TensorDataset(torch.arange(6).repeat_interleave(2**19).view(6, -1)), 2, num_workers=2))
print([batch[0].float().mean(1).tolist() for batch in batches])
"""


@linux
@pytest.mark.parametrize(
    ("fill", "words"), [("", "come through a pipe"), ("cat /dev/zero > /dev/shm/x 2> /dev/null;", "are loaded by the")]
)
def test_a_container_with_little_shared_memory_loads_all(fill: str, words: str) -> None:
    """Batches of 8 MB, and /dev/shm has 4 MB, or nothing free."""
    inside = f"mount -t tmpfs -o size=4m tmpfs /dev/shm && {{ {fill} exec {sys.executable} -c '{IN_CONTAINER}'; }}"
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], capture_output=True).returncode:
        pytest.skip("this system lets nobody mount")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", inside], cwd=SOURCE, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    *notes, means = done.stdout.splitlines()
    assert means == "[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]", done.stderr
    assert len(notes) == 1 and words in notes[0]
    assert done.stderr == ""


# ---- workers that die, and signals while one waits for them ----


def children_of(process: int) -> list[int]:
    """The processes that it has forked."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def workers_of(process: Any, output: Path) -> list[int]:
    """The workers of a run, once it trains: those of its training, which start last."""
    deadline = time.monotonic() + 60
    while not output.exists() or "in training" not in output.read_text("utf-8"):
        assert process.is_alive() and time.monotonic() < deadline, output.read_text("utf-8")
        time.sleep(0.01)
    return [child for child in children_of(process.pid) if b"resource_tracker" not in _command(child)][-2:]


def _command(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


WITH_WORKERS = ["train.py", *BASE[:4], *BASE[6:], "--workers", "2", "--epochs", "3", "--log_per_step", "1"]


@linux
def test_a_worker_that_is_killed_ends_a_run_with_one_line(project: Path, tmp_path: Path) -> None:
    argv = [*WITH_WORKERS, "--ckpt_dir", str(tmp_path / "runs")]
    process = start_script(project, argv, tmp_path / "output", FAULT_SLEEP="0.3")
    worker = workers_of(process, tmp_path / "output")[0]
    os.kill(worker, signal.SIGKILL)
    process.join(60)
    said = (tmp_path / "output").read_text("utf-8")
    assert process.exitcode == 1, said
    assert said.splitlines()[-1] == (
        f"error: DataLoader worker (pid {worker}) is killed by signal: Killed; if memory was short, give fewer "
        "--workers or a smaller --batch_size; then continue with --resume auto"
    )


@linux
def test_a_signal_stops_a_run_whose_workers_never_answer(project: Path, tmp_path: Path) -> None:
    argv = [*WITH_WORKERS, "--ckpt_dir", str(tmp_path / "runs")]
    process = start_script(project, argv, tmp_path / "output", FAULT_SLEEP="0.3")
    for worker in workers_of(process, tmp_path / "output"):
        os.kill(worker, signal.SIGSTOP)
    time.sleep(3)  # until all that was loaded before is used
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    said = (tmp_path / "output").read_text("utf-8")
    assert process.exitcode == 128 + signal.SIGTERM, said
    assert said.splitlines()[-1].startswith("stopped by SIGTERM after update")
    [state] = (tmp_path / "runs").glob("*/epoch*.pth")
    assert checkpoint.is_intact(state)


# ---- one run, one process ----


HOLD = """
import sys, time
from pathlib import Path
from engine.checkpoint.run_folder import locked

with locked(sys.argv[1]):
    print("locked", flush=True)
    time.sleep(300)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=SOURCE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert holder.stdout and holder.stdout.readline() == "locked\n"
    trainer = Small(tmp_path, epochs=1)
    before = weights(trainer)
    with pytest.raises(UserError) as refusal:
        trainer.fit(1)
    assert re.fullmatch(
        re.escape(str(tmp_path)) + rf" is being trained by process {holder.pid} on \S+, since [-\d_]+; "
        "wait for it, or stop it first",
        str(refusal.value),
    )
    assert weights(trainer).keys() == before.keys() and not list(tmp_path.glob("*.pth"))
    holder.kill()
    holder.wait()
    trainer.fit(1)  # a lock ends with its process
    assert (tmp_path / "epoch1.pth").exists()


def test_a_process_may_ask_for_its_own_lock_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), locked(tmp_path):
            pass


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("engine.checkpoint.run_folder.lock_file", refuse)
    with locked(tmp_path):
        pass
    assert capsys.readouterr().out == (
        f"note: {tmp_path / '.lock'} cannot be locked (No locks available): let no second process train this run\n"
    )


def test_an_error_of_all_processes_is_said_once(render: Render, tmp_path: Path) -> None:
    project = render(task_type="regression")
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    done = subprocess.run(
        [sys.executable, *words, "--data", "nope.csv", "--device", "cpu"],
        cwd=project, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode and (done.stdout + done.stderr).count("error: --data nope.csv does not exist") == 1


# ---- data that moves ----


def test_data_may_move_but_not_change(tmp_path: Path, render: Render) -> None:
    project = render(task_type="regression")
    for name, factor in (("here", 1), ("there", 1), ("other", 2)):
        rows = [f"{a},{factor * (a * 7 % 30)},{a % 4}" for a in range(40)]
        (tmp_path / f"{name}.csv").write_text("a,b,target\n" + "\n".join(rows) + "\n", "utf-8")
    argv = ["train.py", "--width", "8", "--pictures", "none", "--ckpt_dir", str(tmp_path / "runs")]
    first = [*argv, "--epochs", "1", "--data", str(tmp_path / "here.csv")]
    assert run_script(project, first, tmp_path / "output")[0] == 0
    (tmp_path / "here.csv").unlink()
    again = [*argv, "--epochs", "2", "--resume", "auto", "--data"]
    status, said = run_script(project, [*again, str(tmp_path / "other.csv")], tmp_path / "output")
    assert status == 1 and "was trained on other data" in said.splitlines()[-1]
    status, said = run_script(project, [*again, str(tmp_path / "there.csv")], tmp_path / "output")
    assert status == 0 and "continuing from" in said, said


def test_samples_that_differ_are_noticed_where_sizes_do_not(tmp_path: Path) -> None:
    trainer = Small(tmp_path, epochs=1)
    trainer.fit(1)
    other = Small(tmp_path, epochs=2, train_loader=data(shuffle=True, seed=7))
    with pytest.raises(UserError) as refusal:
        other.load_state(tmp_path / "epoch1.pth")
    assert str(refusal.value) == (
        f"{tmp_path / 'epoch1.pth'} was trained on other data: its samples differ; give the same, or start a new run"
    )


class Unlike(Split):
    """Whose samples are others whenever they are read."""

    read = 0

    def __getitems__(self, positions: list[int]) -> tuple[Any, Any]:
        self.read += 1
        x, y = super().__getitems__(positions)
        return x + self.read, y


def test_samples_that_differ_whenever_they_are_read_are_not_compared() -> None:
    x, y = torch.randn(12, 4), torch.arange(12)
    same = sample_means(DataLoader(Split(x, y, torch.arange(12))))
    assert same[:2] == [x[0].double().mean().item(), 0.0] and len(same) == 2 * 6
    assert sample_means(DataLoader(Unlike(x, y, torch.arange(12)))) == []
    assert sample_means([(x, y)]) == []


# ---- evaluations and batches that cannot be used ----


class Overflows(Small):
    """Whose evaluation loss is inf in its best epoch."""

    def evaluate(self, loader: Any) -> dict[str, float]:
        return {"loss": float("inf") if self.epoch == 2 else 1.0, "acc": 0.9 if self.epoch == 2 else 0.5}


def test_an_epoch_whose_loss_is_infinite_is_not_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Overflows(tmp_path, epochs=3)
    trainer.fit(3)
    assert trainer.best_epoch == 1
    assert (
        "note: epoch 2 cannot be the best, since its evaluation is not finite: loss inf, acc 0.9\n"
        in capsys.readouterr().out
    )


def test_a_batch_of_one_that_batch_normalisation_cannot_train_on_is_said(tmp_path: Path) -> None:
    trainer = Small(tmp_path, epochs=1, train_loader=data(batch_size=1))
    with pytest.raises(UserError) as refusal:
        trainer.fit(1)
    assert str(refusal.value) == (
        "BatchNorm cannot train on a batch of 1: Expected more than 1 value per channel when training, got input size "
        "torch.Size([1, 8]); set --batch_size to 2 or more per process, or put GroupNorm into the network"
    )


# ---- frozen parts ----


def test_frozen_normalisation_keeps_its_statistics(tmp_path: Path) -> None:
    frozen = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.Dropout(0.5))
    frozen.requires_grad_(False)
    trained = nn.Sequential(nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 2))
    optimizers = [SGD(trained.parameters(), 0.1)]
    trainer = Small(tmp_path, epochs=2, model_list=[frozen, trained], optimizer_list=optimizers)
    before = weights(trainer)
    trainer.fit(2)
    after = weights(trainer)
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith("0."), name
    assert frozen[3].training  # its dropout is as it was


class KeepsItself(nn.BatchNorm1d):
    """Normalisation that a person keeps in eval mode the usual way."""

    def train(self, mode: bool = True) -> "KeepsItself":
        super().train(False)
        return self


def test_a_module_s_own_train_method_counts(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), KeepsItself(8), nn.Linear(8, 2))
    trainer = Small(tmp_path, epochs=1, model_list=[model], optimizer_list=[SGD(model.parameters(), 0.1)])
    trainer.fit(1)
    assert model[1].num_batches_tracked == 0


# ---- short runs ----


@pytest.mark.parametrize(
    ("epochs", "note"),
    [
        (1, "note: a warm-up of 0.25 epochs, since the run has 1; see --warm_up_epochs"),
        (3, "note: a warm-up of 0.75 epochs, since the run has 3; see --warm_up_epochs"),
        (4, ""),
    ],
)
def test_the_default_warm_up_suits_short_runs(
    epochs: int, note: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"warm_up_mode": "linear", "epochs": epochs}
    trainer = Small(tmp_path, **options, warm_up_epochs=None, train_loader=data(80))
    assert trainer.warm_up_epochs == min(1, epochs / 4)
    assert trainer.timeline().warm_up_updates == round(10 * min(1, epochs / 4))
    trainer.fit(epochs)
    assert [line for line in capsys.readouterr().out.splitlines() if "a warm-up" in line] == [note] * bool(note)


def test_a_warm_up_that_was_asked_for_is_refused_if_it_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        Small(tmp_path, warm_up_mode="linear", warm_up_epochs=1.0, epochs=1)
    assert str(refusal.value) == (
        "warm_up_epochs 1 must be below epochs 1: nothing would be left to train after the warm-up; lower it or set "
        "warm_up_mode to none"
    )


# ---- tables of predictions ----


@pytest.fixture(scope="module")
def predicting(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the regression task with trained weights in best.pth and a table new.csv."""
    folder = tmp_path_factory.mktemp("predicting")
    project = render_into(folder, task_type="regression")
    argv = ["train.py", "--width", "8", "--pictures", "none", "--epochs", "1", "--ckpt_dir", str(folder / "runs")]
    status, said = run_script(project, argv, folder / "output")
    assert status == 0, said
    next((folder / "runs").glob("*/best.pth")).rename(project / "best.pth")
    (project / "new.csv").write_text("a,b,kind\n1,2,low\n3,4,high\n", "utf-8")
    (project / "bad.csv").write_text("a,b,kind\n1,x,low\n", "utf-8")
    return project


PREDICT = ["predict.py", "--checkpoint", "best.pth", "--output"]


def test_a_misspelt_input_leaves_the_predictions_that_are_there(predicting: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    output.write_text("of yesterday", "utf-8")
    argv = [*PREDICT, str(output), "new.csv", "nwe.csv"]
    status, said = run_script(predicting, argv, tmp_path / "output")
    assert status == 1 and output.read_text("utf-8") == "of yesterday"
    assert said == "error: nwe.csv: there is no such file or folder to predict for; nothing was written\n"


def test_an_input_that_cannot_be_read_leaves_the_predictions_before_it(predicting: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    output.write_text("of yesterday", "utf-8")
    status, said = run_script(predicting, [*PREDICT, str(output), "new.csv", "bad.csv"], tmp_path / "output")
    assert status == 1 and output.read_text("utf-8") == "of yesterday"
    assert said.splitlines()[-1].endswith(f"; the 2 predictions before it are in {output}.part")
    assert len((tmp_path / "predictions.csv.part").read_text("utf-8").splitlines()) == 3


@pytest.mark.skipif(os.name != "posix" or not Path("/dev/full").exists(), reason="/dev/full")
def test_a_full_disk_is_said_in_one_line(predicting: Path, tmp_path: Path) -> None:
    (tmp_path / "predictions.csv.part").symlink_to("/dev/full")
    status, said = run_script(predicting, [*PREDICT, str(tmp_path / "predictions.csv"), "new.csv"], tmp_path / "output")
    place = tmp_path / "predictions.csv.part"
    assert status == 1
    assert said == f"error: {place} cannot be written (No space left on device); give another --output\n"
