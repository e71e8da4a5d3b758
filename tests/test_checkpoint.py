"""Checkpoint files: whole or not at all, found, checked, pruned, and never executed."""

import builtins
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import UserError, checkpoint
from engine.checkpoint.run_folder import find_state, new_run_folder, prune


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    state = {"model0": {"w": torch.arange(3.0)}, "epoch": 3, "meta": {"classes": ["a", "b"]}}
    checkpoint.save(state, tmp_path / "epoch3.pth")
    assert str(checkpoint.load(tmp_path / "epoch3.pth")) == str(state)


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save({"epoch": 1}, path)

    def full_disk(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*best\.pth \(No space left on device\); free space"):
        checkpoint.save({"epoch": 2}, path)
    assert checkpoint.load(path) == {"epoch": 1}
    assert os.listdir(tmp_path) == ["best.pth"]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_noticed_and_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "epoch1.pth"
    checkpoint.save({"w": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes({"cut": content[:-200], "flip": content, "empty": b""}[damage]))
    with pytest.raises(UserError, match=r"epoch1\.pth is damaged"):
        checkpoint.load(path)


def test_a_zip_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"m\.pth is a zip file, but no checkpoint"):
        checkpoint.load(tmp_path / "m.pth")


def test_loading_executes_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return builtins.exec, ("raise SystemExit('code was executed')",)

    torch.save({"model0": Evil()}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="no plain value"):
        checkpoint.load(tmp_path / "best.pth")


def test_the_newest_states_are_kept(tmp_path: Path) -> None:
    for epoch in (1, 2, 9, 10, 11):
        checkpoint.save({"epoch": epoch}, tmp_path / f"epoch{epoch}.pth")
    checkpoint.save({}, tmp_path / "best.pth")
    newest = tmp_path / "epoch11.pth"
    prune(newest, keep_last=0)
    assert len(os.listdir(tmp_path)) == 6
    prune(newest, keep_last=2)
    assert sorted(os.listdir(tmp_path)) == ["best.pth", "epoch10.pth", "epoch11.pth"]


def test_states_inside_an_epoch_are_kept_until_the_epoch_has_its_own(tmp_path: Path) -> None:
    def left(newest: str) -> list[str]:
        checkpoint.save({}, tmp_path / newest)
        prune(tmp_path / newest, keep_last=2)
        return [path.name for path in checkpoint.states_in(tmp_path)]

    for name in ("epoch1.pth", "epoch2.pth", "epoch3_step21.pth", "epoch3_step24.pth"):
        checkpoint.save({}, tmp_path / name)
    inside = ["epoch3_step100.pth", "epoch3_step24.pth"]
    assert left("epoch3_step100.pth") == [*inside, "epoch2.pth", "epoch1.pth"]
    assert left("epoch3.pth") == ["epoch3.pth", "epoch2.pth"]


def test_a_state_that_is_later_but_damaged_costs_no_other(tmp_path: Path) -> None:
    for name in ("epoch1.pth", "epoch2.pth", "epoch3_step30.pth"):
        checkpoint.save({}, tmp_path / name)
    (tmp_path / "epoch3.pth").write_bytes(b"damaged")
    prune(tmp_path / "epoch3_step30.pth", keep_last=1)
    assert sorted(os.listdir(tmp_path)) == ["epoch2.pth", "epoch3.pth", "epoch3_step30.pth"]


def test_auto_finds_the_newest_state_that_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert find_state("auto", tmp_path) is None
    for run, epochs in (("2026-01-01_00-00-00", (1, 2, 3)), ("2026-01-02_00-00-00", (9, 10))):
        (tmp_path / run).mkdir()
        for epoch in epochs:
            checkpoint.save({"epoch": epoch}, tmp_path / run / f"epoch{epoch}.pth")
    newest = tmp_path / "2026-01-02_00-00-00"
    assert find_state("auto", tmp_path) == newest / "epoch10.pth"
    (newest / "epoch10.pth").write_bytes(b"cut short")
    assert find_state("auto", tmp_path) == newest / "epoch9.pth"
    assert "epoch10.pth is damaged" in capsys.readouterr().out
    older = tmp_path / "2026-01-01_00-00-00"
    assert find_state(str(older), tmp_path) == older / "epoch3.pth"
    with pytest.raises(UserError, match="nowhere"):
        find_state("nowhere", tmp_path)


def test_a_run_folder_has_a_name_that_is_legal_everywhere_and_is_never_shared(tmp_path: Path) -> None:
    runs = [new_run_folder(tmp_path) for _ in range(3)]
    assert len(set(runs)) == 3
    assert not set('<>:"|?*\\') & set("".join(run.name for run in runs))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="set ckpt_dir"):
        new_run_folder(tmp_path / "file")
