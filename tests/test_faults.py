"""Kills, signals, full disks, damaged files, numbers that go bad: nothing is lost, and the end is the same.

`make soak` tries far more of the same; faults.py says how runs are killed and compared.
"""

import io
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUESTIONS, SOURCE
from engine import UserError, checkpoint
from engine.checkpoint.run_folder import find_state
from engine.distributed.batches import LocalBatch
from engine.logger import Logger
from engine.monitor.tensorboard import open_writer
from engine.runtime import files
from faults import BASE, check_nothing_is_broken, differences, end_of
from scripts import run_script, start_script
from small import Small, data, same, weights
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

HERE = Path(__file__).parent
SOAK = int(os.environ.get("SOAK", 1))  # how many times as much is tried

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def try_kills(project: Path, tmp_path: Path, kills: int, *flags: str) -> int:
    """Runs faults.py and returns the number of kills."""
    argv = [str(HERE / "faults.py"), str(tmp_path / "runs"), str(kills), *BASE, *flags]
    status, output = run_script(project, argv, tmp_path / "output", seconds=3000 * SOAK)
    assert status == 0 and "\nok: " in "\n" + output, output
    print(output.splitlines()[-1])
    return int(output.splitlines()[-1].split()[1])


# ---- kill -9, and resume ----


def test_a_run_killed_at_any_instant_ends_like_one_that_was_not(project: Path, tmp_path: Path) -> None:
    flags = ["--epochs", "2", "--num_parts", "3", "--lr_scheduler_type", "metric", "--warm_up_mode", "linear"]
    flags += ["--accumulate", "2", "--clip_grad", "1", "--save_per_steps", "2", "--log_per_step", "1", "--ema", "0.9"]
    assert try_kills(project, tmp_path, 0, *flags) > 100


SCHEDULES = list(itertools.product(QUESTIONS["lr_scheduler_type"], QUESTIONS["warm_up_mode"]))


@pytest.mark.parametrize("number", range(len(SCHEDULES)), ids=["-".join(pair) for pair in SCHEDULES])
def test_runs_of_every_schedule_killed_and_stopped_at_random_end_alike(
    number: int, project: Path, tmp_path: Path
) -> None:
    kind, mode = SCHEDULES[number]
    flags = ["--lr_scheduler_type", kind, "--warm_up_mode", mode, "--warm_up_epochs", "1.5", "--patience", "0"]
    flags += ["--num_parts", str(1 + number % 3), "--precision", ("fp32", "bf16", "fp16")[number // 3 % 3]]
    flags += ["--accumulate", str(1 + number % 2), "--save_per_steps", str(number % 4), "--epochs", "3"]
    flags += ["--optimizer", ("sgd", "adamw")[number % 2], "--log_per_step", str(1 + number % 3), "--step_size", "1"]
    flags += ["--save_per_epochs", str(1 + number % 5 // 4), "--keep_last", "1"]
    flags += ["--early_stopping_patience", str(number % 3), "--ema", ("0", "0.99")[number // 2 % 2]]
    try_kills(project, tmp_path, 6 * SOAK, *flags)


@pytest.mark.parametrize("save_per_steps", [0, 2])
def test_workers_that_load_make_no_difference(save_per_steps: int, project: Path, tmp_path: Path) -> None:
    flags = ["--epochs", "2", "--save_per_steps", str(save_per_steps), "--log_per_step", "2", "--workers", "2"]
    try_kills(project, tmp_path, 4 * SOAK, *flags)
    for workers in ("0", "2"):
        argv = ["train.py", *BASE, "--epochs", "2", "--workers", workers, "--ckpt_dir", str(tmp_path / workers)]
        assert run_script(project, argv, tmp_path / "output")[0] == 0
    assert differences(end_of(tmp_path / "0"), end_of(tmp_path / "2")) == []


# ---- signals ----


def wait_for(word: str, output: Path, process: Any) -> None:
    """Returns once the word is in the output of the process."""
    deadline = time.monotonic() + 60
    while not output.exists() or word not in output.read_text("utf-8"):
        assert process.is_alive() and time.monotonic() < deadline, output.read_text("utf-8")
        time.sleep(0.01)


@pytest.mark.parametrize("whom", [os.kill, os.killpg])
@pytest.mark.parametrize("phase", ["in training", "in evaluation"])
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_after_the_update_and_loses_nothing(
    kind: signal.Signals, phase: str, whom: Callable[[int, int], None], project: Path, tmp_path: Path
) -> None:
    argv = ["train.py", *BASE, "--workers", "2", "--log_per_step", "1", "--save_per_epochs", "5", "--epochs", "2"]
    assert run_script(project, [*argv, "--ckpt_dir", str(tmp_path / "whole")], tmp_path / "output")[0] == 0

    argv += ["--ckpt_dir", str(tmp_path / "stopped"), "--resume", "auto"]
    output = tmp_path / "stopped.txt"
    process = start_script(project, argv, output, FAULT_SLEEP="0.5")
    wait_for(phase, output, process)
    whom(process.pid, kind)  # the group has the workers too, as when a person presses Ctrl-C
    process.join(30)
    assert process.exitcode == 128 + kind, output.read_text("utf-8")
    said = output.read_text("utf-8")
    assert "Traceback" not in said and f"stopped by {kind.name} after update" in said
    [state] = (tmp_path / "stopped").glob("*/epoch*.pth")
    inside = checkpoint.load(state)
    assert (inside["epoch_step"] == inside["data"]["updates per epoch"]) == (phase == "in evaluation")
    log = (state.parent / "log.txt").read_text("utf-8")
    assert log.splitlines()[-1].startswith(f"stopped by {kind.name}")

    status, said = run_script(project, argv, tmp_path / "output")
    assert status == 0 and f"continuing from {state}" in said
    assert differences(end_of(tmp_path / "whole"), end_of(tmp_path / "stopped")) == []


def test_a_second_ctrl_c_stops_at_once(project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "2", "--ckpt_dir", str(tmp_path)]
    process = start_script(project, argv, tmp_path / "output.txt", FAULT_SLEEP="20")
    wait_for("in training", tmp_path / "output.txt", process)
    os.kill(process.pid, signal.SIGINT)
    wait_for("a second Ctrl-C stops at once", tmp_path / "output.txt", process)
    os.kill(process.pid, signal.SIGINT)
    process.join(15)
    assert process.exitcode == 130
    assert "continues a run from its last saved state" in (tmp_path / "output.txt").read_text("utf-8")


SLOW_WORKERS = """
import multiprocessing, sys, time
import torch
from engine.data.loaders import Loader

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        time.sleep(300 if index else 0)
        return index

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    batches = iter(Loader(Slow(), num_workers=2))
    next(batches)
    raise SystemExit(3)
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_run_that_ends_does_not_wait_for_workers(method: str, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_WORKERS)
    command = [sys.executable, "-B", "slow.py", method]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 3 and "Traceback" not in done.stderr, done.stderr


# A signal to all comes a little after workers begin to start.
SIGNAL_AT_START = """
import os, runpy, sys, time
from torch.utils.data import DataLoader

def iterate(self, start=DataLoader.__iter__):
    DataLoader.__iter__ = start
    group = os.getpgid(0)
    if os.fork() == 0:
        os.setsid()
        time.sleep(float(os.environ["DELAY"]))
        os.killpg(group, int(os.environ["KIND"]))
        os._exit(0)
    return start(self)

DataLoader.__iter__ = iterate
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_workers_that_are_just_starting_survive_a_signal_to_all(
    kind: signal.Signals, project: Path, tmp_path: Path
) -> None:
    script = tmp_path / "signal_at_start.py"
    script.write_text(SIGNAL_AT_START)
    for number in range(8 * SOAK):
        argv = [str(script), *BASE, "--workers", "2", "--epochs", "2", "--ckpt_dir", str(tmp_path / str(number))]
        settings: dict[str, Any] = {
            "FAULT_SLEEP": "0.1",
            "KIND": str(int(kind)),
            "DELAY": f"{0.004 * (number % 8):.3f}",
        }
        status, output = run_script(project, argv, tmp_path / "output", **settings)
        assert status == 128 + kind and "Traceback" not in output, output


def test_handlers_are_given_back_and_a_thread_may_train(tmp_path: Path) -> None:
    from threading import Thread

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    Small(tmp_path).fit(1)
    thread = Thread(target=Small(tmp_path / "thread").fit, args=(1,))
    thread.start()
    thread.join()
    assert checkpoint.states_in(tmp_path / "thread")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


class SignalAtTheEnd(Small):
    """Which gets a signal when all is trained and saved."""

    def _save(self) -> Path:
        path = super()._save()
        if self.epoch == self.epochs and not self.signals.received:
            os.kill(os.getpid(), signal.SIGTERM)
        return path


def test_a_signal_after_the_last_update_ends_the_run_too_and_is_over_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = SignalAtTheEnd(tmp_path, epochs=2)
    with pytest.raises(SystemExit) as end:
        trainer.fit(2)
    assert end.value.code == 128 + signal.SIGTERM and "stopped by SIGTERM after update 6" in capsys.readouterr().out
    assert trainer.test() == {} and trainer.evaluate(trainer.eval_loader)  # in a notebook, where it goes on


# ---- files ----


def in_a_process(body: Callable[[], None]) -> int:
    """Runs it in a forked process; returns the exit status, minus the signal that ended it."""
    process = os.fork()
    if not process:
        try:
            body()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.__stderr__)
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_two_hundred_saves_under_kill_always_leave_a_state(tmp_path: Path) -> None:
    path = tmp_path / "epoch1.pth"
    checkpoint.save({"number": 0, "w": torch.zeros(50_000)}, path)
    draw = random.Random(0)
    before = 0
    for _ in range(200 * SOAK):
        process = os.fork()
        if not process:
            try:
                for number in itertools.count(before + 1):
                    checkpoint.save({"number": number, "w": torch.full((50_000,), float(number))}, path)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        state = checkpoint.load(path)
        assert state["number"] >= before and bool((state["w"] == state["number"]).all())
        before = state["number"]
        assert set(os.listdir(tmp_path)) <= {"epoch1.pth", ".unfinished.tmp"}
    assert before > 0


def limit_files(size: int) -> None:
    """Makes writing beyond that size fail, as on a full disk: EFBIG in place of ENOSPC."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 100_000])
def test_a_full_disk_leaves_the_state_before(size: int, tmp_path: Path) -> None:
    path = tmp_path / "epoch1.pth"
    checkpoint.save({"number": 1}, path)

    def save() -> None:
        limit_files(size)
        with pytest.raises(UserError, match=r"cannot write .*epoch1\.pth \(File too large\); free space"):
            checkpoint.save({"number": 2, "w": torch.zeros(50_000)}, path)

    assert in_a_process(save) == 0
    assert checkpoint.load(path) == {"number": 1}
    assert os.listdir(tmp_path) == ["epoch1.pth"]


def test_a_folder_that_may_not_be_written_is_named_and_left_alone(project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "1", "--warm_up_mode", "none", "--ckpt_dir", str(tmp_path / "runs")]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    [state] = (tmp_path / "runs").glob("*/epoch1.pth")
    before = {path: path.read_bytes() for path in state.parent.iterdir() if path.is_file()}

    def save() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)  # nothing is forbidden to root
        with pytest.raises(UserError, match=r"cannot write .*epoch1\.pth \((Permission denied|Read-only)"):
            checkpoint.save({"number": 2}, state)
        with pytest.raises(UserError, match=r"cannot write .*log\.txt"):
            Logger(state.parent / "log.txt")

    for folder in [state.parent, *state.parents][:8]:
        if folder.is_relative_to(Path(os.environ.get("TMPDIR", "/tmp")) / "pytest-of-root"):
            folder.chmod(0o755)  # pytest's are closed to others
    (state.parent / "log.txt").chmod(0o444)
    state.parent.chmod(0o555)
    try:
        assert in_a_process(save) == 0
    finally:
        state.parent.chmod(0o755)
    assert {path: path.read_bytes() for path in state.parent.iterdir() if path.is_file()} == before


def test_a_full_disk_ends_training_with_a_line_and_the_states_before_it(project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "1", "--warm_up_mode", "none", "--ckpt_dir", str(tmp_path / "runs")]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    [state] = (tmp_path / "runs").glob("*/epoch1.pth")
    script = tmp_path / "on_a_full_disk.py"
    script.write_text(
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({state.stat().st_size // 2}, resource.RLIM_INFINITY))\n"
        "sys.argv[0] = 'train.py'\nrunpy.run_path('train.py', run_name='__main__')"
    )
    argv = [str(script), "--resume", "auto", "--ckpt_dir", str(tmp_path / "runs"), "--epochs", "9"]
    status, output = run_script(project, argv, tmp_path / "output")
    assert status == 1 and output.splitlines()[-1].startswith("error: cannot write"), output
    check_nothing_is_broken(tmp_path / "runs")
    assert find_state("auto", tmp_path / "runs") == state


@pytest.mark.parametrize("what", ["log", "records"])
def test_a_full_disk_for_log_or_tensorboard_is_said_and_training_goes_on(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "log.txt lacks lines from here on" if what == "log" else "TensorBoard's records end here"

    def train() -> None:
        sys.stdout = console = io.StringIO()  # and not a file, which would be full too
        limit_files(20_000)  # room for a state, but not for many lines or events
        with Logger(tmp_path / "log.txt"), open_writer(tmp_path / "runs", 1) as writer:
            trainer = Small(tmp_path / "run", epochs=3, log_per_step=1)
            trainer.writer = writer
            for number in range(3000):
                if what == "log":
                    print("a line of some length", number)
                else:
                    writer.add_scalar("many", number, number)
            trainer.fit(3)
            print("the end")
        assert console.getvalue().count(reason) == 1 and "the end" in console.getvalue()

    assert in_a_process(train) == 0
    assert len(checkpoint.states_in(tmp_path / "run")) == 3


def small_state() -> dict[str, Any]:
    """A state with a little of everything."""
    model = nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"model0": model.state_dict(), "optimizer0": optimizer.state_dict(), "epoch": 3, "meta": {"a": ["b", 1.5]}}


def test_no_damaged_byte_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "epoch3.pth"
    state = small_state()
    checkpoint.save(state, path)
    content = path.read_bytes()
    draw = random.Random(0)
    assert differences(checkpoint.load(path), state) == []
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        assert not checkpoint.is_intact(path), place
    with pytest.raises(UserError, match=r"epoch3\.pth is damaged"):
        checkpoint.load(path)


def test_a_file_that_torch_saved_alone_is_read_too(tmp_path: Path) -> None:
    torch.save(small_state(), tmp_path / "own.pth")
    checkpoint.load(tmp_path / "own.pth")
    content = bytearray((tmp_path / "own.pth").read_bytes())
    content[content.index(b"epoch")] ^= 1
    (tmp_path / "own.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"own\.pth is damaged"):
        checkpoint.load(tmp_path / "own.pth")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_no_shortened_file_goes_unnoticed(part: float, tmp_path: Path) -> None:
    path = tmp_path / "epoch3.pth"
    checkpoint.save(small_state(), path)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(UserError, match=r"epoch3\.pth is damaged"):
        checkpoint.load(path)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_run_goes_on_from_the_state_before_a_damaged_one(damage: str, project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "3", "--ckpt_dir", str(tmp_path / "runs")]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    whole = end_of(tmp_path / "runs")
    [newest] = (tmp_path / "runs").glob("*/epoch3.pth")
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 16
    newest.write_bytes(bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage]))
    status, output = run_script(project, [*argv, "--resume", "auto"], tmp_path / "output")
    assert status == 0 and f"{newest} is damaged; trying the one before it" in output
    assert f"continuing from {newest.with_name('epoch2.pth')}" in output
    assert differences(whole, end_of(tmp_path / "runs")) == []


def test_no_state_is_removed_before_its_successor_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return function(*args, **kwargs)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (files, "sync_folder"), (Path, "unlink")):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    trainer = Small(tmp_path, epochs=3, keep_last=1)
    trainer.fit(3)
    assert done.count("unlink") == 2
    for number in [number for number, name in enumerate(done) if name == "unlink"]:
        assert done[number - 4 : number] == ["fsync", "replace", "sync_folder", "fsync"]


# ---- what a run may go on with ----


def test_a_newer_run_without_a_state_is_named_when_an_older_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("old", "newer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").touch()
    Small(tmp_path / "old").save_state(tmp_path / "old" / "epoch1.pth")
    os.utime(tmp_path / "old" / "epoch1.pth", (time.time() - 100,) * 2)
    assert find_state("auto", tmp_path) == tmp_path / "old" / "epoch1.pth"
    assert f"{tmp_path / 'newer'} is newer, but has no state" in capsys.readouterr().out


def test_a_finished_run_keeps_its_settings(project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "1", "--warm_up_mode", "none", "--ckpt_dir", str(tmp_path / "runs")]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    [settings] = (tmp_path / "runs").glob("*/config.json")
    before = settings.read_text()
    status, output = run_script(project, [*argv, "--resume", "auto", "--lr", "0.5"], tmp_path / "output")
    assert status == 0 and "training has ended with epoch 1" in output and settings.read_text() == before


class Noisy(Dataset[Any]):
    """Samples that draw from the global generator when they are read."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return torch.randn(4), torch.tensor(number % 2)


@pytest.mark.parametrize("own", ["generator", "drawn when read"])
@pytest.mark.parametrize("update", [3, 4, 5])  # at the end of an epoch, and inside the next
def test_a_run_with_a_loader_of_ones_own_goes_on_exactly(own: str, update: int, tmp_path: Path) -> None:
    def trainer() -> Small:
        loader = {
            "generator": DataLoader(data().dataset, 8, shuffle=True, generator=torch.Generator().manual_seed(5)),
            "drawn when read": DataLoader(Noisy(), 8, shuffle=True),
        }[own]
        return Small(tmp_path, epochs=3, save_per_steps=1, keep_last=0, train_loader=loader)

    whole = trainer()
    whole.fit(3)
    resumed = trainer()
    resumed.load_state(tmp_path / ("epoch1.pth" if update == 3 else f"epoch2_step{update}.pth"))
    resumed.fit(3)
    assert same(weights(resumed), weights(whole)) and resumed.best_values == whole.best_values


def test_workers_that_persist_are_refused_where_the_data_set_is_told_the_epoch(tmp_path: Path) -> None:
    class Told(Noisy):
        def set_epoch(self, epoch: int) -> None: ...

    loader = DataLoader(Told(), 8, num_workers=1, persistent_workers=True)
    with pytest.raises(UserError, match="persistent_workers would keep the data set of the first epoch"):
        Small(tmp_path, train_loader=loader).fit(1)


def test_more_epochs_after_a_stop_inside_an_epoch_end_like_more_epochs_from_the_start(
    project: Path, tmp_path: Path
) -> None:
    flags = ["--lr_scheduler_type", "none", "--warm_up_mode", "none"]
    argv = ["train.py", *BASE, *flags, "--ckpt_dir"]
    assert run_script(project, [*argv, str(tmp_path / "whole"), "--epochs", "4"], tmp_path / "output")[0] == 0
    process = start_script(
        project, [*argv, str(tmp_path / "more"), "--epochs", "2"], tmp_path / "stopped.txt", FAULT_SLEEP="0.5"
    )
    wait_for("\n  1/2  ", tmp_path / "stopped.txt", process)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    argv = ["train.py", "--ckpt_dir", str(tmp_path / "more"), "--resume", "auto", "--epochs", "4"]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    assert differences(end_of(tmp_path / "whole"), end_of(tmp_path / "more")) == []


def test_a_run_of_another_task_is_refused(project: Path, tmp_path: Path) -> None:
    argv = ["train.py", *BASE, "--epochs", "1", "--warm_up_mode", "none", "--ckpt_dir", str(tmp_path / "runs")]
    assert run_script(project, argv, tmp_path / "output")[0] == 0
    [settings] = (tmp_path / "runs").glob("*/config.json")
    settings.write_text(settings.read_text().replace("image_classification", "segmentation"))
    status, output = run_script(project, [*argv, "--resume", "auto"], tmp_path / "output")
    words = "is of a run of the task 'segmentation' and this is 'image_classification'"
    assert status == 1 and output.startswith("error: ") and output.count("\n") == 1 and words in output


SIZES = {"training samples": 20, "evaluation samples": 20, "updates per epoch": 3}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"task_type": "regression"}, "is of the task 'regression' and this is ''"),
        ({"data": {**SIZES, "training samples": 19}}, "19 training samples, not 20"),
        ({"data": {**SIZES, "updates per epoch": 6}}, "6 updates per epoch, not 3"),
        ({"training_losses": None}, "lacks training_losses: another version of the engine wrote it"),
    ],
)
def test_a_state_that_cannot_be_continued_is_refused_with_the_difference(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    trainer = Small(tmp_path)
    trainer.save_state(tmp_path / "s.pth")
    state = {**checkpoint.load(tmp_path / "s.pth"), **change}
    checkpoint.save({name: value for name, value in state.items() if value is not None}, tmp_path / "s.pth")
    before = weights(trainer)
    with pytest.raises(UserError, match=words) as refusal:
        trainer.load_state(tmp_path / "s.pth")
    assert "\n" not in str(refusal.value)
    assert same(weights(trainer), before)


@pytest.mark.parametrize("inside", [False, True])
def test_best_belongs_to_the_run_also_when_it_goes_on_otherwise(inside: bool, tmp_path: Path) -> None:
    """A later best.pth than the state, left by a process that was killed, is what `best_metric` then tells of."""
    trainer = Small(tmp_path, epochs=4, save_per_epochs=2)
    trainer.fit(2)
    ahead = {**checkpoint.load(tmp_path / "best.pth"), "epoch": 3, "best_metric": {"acc": 2.0, "loss": 0.0}}
    checkpoint.save(ahead, tmp_path / "best.pth")
    other = Small(tmp_path, epochs=4)
    other.load_state(tmp_path / "epoch2.pth")
    if inside:  # a state of epoch 3, which that best.pth has come from, but before its evaluation
        other.train_loop()
        other.save_state(tmp_path / "epoch3_step9.pth")
        other = Small(tmp_path, epochs=4)
        other.load_state(tmp_path / "epoch3_step9.pth")
    other.fit(4)
    assert other.best_epoch == checkpoint.load(tmp_path / "best.pth")["epoch"] == 3
    assert other.best_metric == {"acc": 2.0, "loss": 0.0}


# ---- numbers that go bad ----


class Bad(Small):
    """Whose numbers go bad at update 7."""

    def __init__(self, folder: Path, where: str, value: float, **settings: Any) -> None:
        super().__init__(folder, train_loader=data(40, 4), epochs=2, **settings)
        self.where, self.value = where, value
        first = next(iter(self.model_list[0].parameters()))
        first.register_hook(lambda gradient: gradient * (value if self.at("gradient") else 1))

    def at(self, where: str) -> bool:
        """Whether it is time for that."""
        return self.where == where and self.global_step == 6 and self.model_list[0].training

    def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        loss = nn.functional.cross_entropy(self.forward(x), y)
        term = x.new_tensor(self.value) if self.at("term") else loss.detach()
        return {"loss": loss * (self.value if self.at("loss") else 1) + (term * 0), "term": term}


@pytest.mark.parametrize("clip_grad", [0.0, 1.0])
@pytest.mark.parametrize("log_per_step", [1, 3, 50])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("where", "words"), [("loss", "loss became"), ("term", "term became"), ("gradient", "a gradient became inf or nan")]
)
def test_the_first_bad_update_is_named_and_no_state_has_it(
    where: str, words: str, value: float, log_per_step: int, clip_grad: float, tmp_path: Path
) -> None:
    trainer = Bad(tmp_path, where, value, log_per_step=log_per_step, clip_grad=clip_grad, save_per_steps=2)
    with pytest.raises(UserError, match=f"{words}.* at update 7; continue from"):
        trainer.fit(2)
    assert trainer.global_step <= 7 + log_per_step
    assert [path.name for path in checkpoint.states_in(tmp_path)] == [f"epoch1_step{n}.pth" for n in (6, 4, 2)]
    for path in checkpoint.states_in(tmp_path):
        assert all(value.isfinite().all() for value in checkpoint.load(path)["model0"].values())


def test_numbers_are_watched_without_waiting_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            waits.append(name)
            return method(*args)

        return call

    trainer = Small(tmp_path, train_loader=list(data(80, 4)), log_per_step=5, clip_grad=1.0)
    trainer.train_loop()  # what is built in the first update may wait
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    for batch in trainer.train_loader:
        trainer._update([LocalBatch(batch, 4, 4)])
        trainer.update_lr_scheduler()
    assert waits == []
    trainer._log_point()
    assert waits  # which is where it waits


def test_weights_that_went_bad_are_not_saved(tmp_path: Path) -> None:
    trainer = Small(tmp_path)
    with torch.no_grad():
        next(iter(trainer.model_list[0].parameters()))[0] = float("nan")
    for optim in (True, False):
        with pytest.raises(UserError, match="a weight became inf or nan by update 0"):
            trainer.save_state(tmp_path / "epoch1.pth", optim)
    assert os.listdir(tmp_path) == []


class Odd(nn.Module):
    """Parameters that are complex, empty, frozen, of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.empty(0, 2))
        self.mask = nn.Parameter(torch.tensor([0.0, -float("inf")]), requires_grad=False)
        self.steps = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.phase.abs()


def test_odd_parameters_are_no_bad_numbers(tmp_path: Path) -> None:
    model = Odd()
    optimizer = SGD([p for p in model.parameters() if p is not model.empty], 0.1)
    optimizer.add_param_group({"params": [model.empty]})
    Small(tmp_path, model_list=[model], optimizer_list=[optimizer], epochs=2).fit(2)
    assert len(checkpoint.states_in(tmp_path)) == 2


def test_fp16_that_overflows_for_ever_is_noticed(tmp_path: Path) -> None:
    class Overflows(Small):
        def loss_per_batch(self, batch: Any) -> dict[str, Tensor]:
            return {"loss": super().loss_per_batch(batch)["loss"] * 1e38}

    with pytest.raises(UserError, match="fp16 gradients have overflowed"):
        Overflows(tmp_path, precision="fp16", train_loader=data(400, 4), epochs=9).fit(9)


# ---- early stopping ----


def test_training_ends_when_the_key_metric_stays_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Scripted(Small):
        def evaluate(self, loader: Any) -> dict[str, float]:
            return {"loss": 1.0, "acc": [0.1, 0.3, 0.3, 0.2, 0.9, 0.9][self.epoch - 1]}

    settings: dict[str, Any] = {"epochs": 6, "early_stopping_patience": 2, "save_per_epochs": 5}
    trainer = Scripted(tmp_path, **settings)
    trainer.fit(6)
    assert (trainer.epoch, trainer.best_epoch) == (4, 2)
    assert "no better acc for 2 epochs" in capsys.readouterr().out
    assert checkpoint.states_in(tmp_path) == [tmp_path / "epoch4.pth"]

    again = Scripted(tmp_path, **settings)  # which a restarted job would do
    again.load_state(tmp_path / "epoch4.pth")
    again.fit(6)
    assert again.epoch == 4
    more = Scripted(tmp_path, **{**settings, "early_stopping_patience": 3})
    more.load_state(tmp_path / "epoch4.pth")
    more.fit(6)
    assert (more.epoch, more.best_epoch) == (6, 5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A process that has started threads cannot be forked safely."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
