"""What makes runs fast and is easily lost: no wait for the device, no needless import, torch's fused kernels, Muon."""

import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from conftest import SOURCE
from engine import UserError
from engine.nonfinite import NonFiniteWatch
from engine.optim.gradients import Gradients
from engine.optim.muon import Muon, orthogonalise
from engine.optim.optimizers import OPTIMIZERS, build_optimizers
from engine.runtime.shortcuts import flag_non_finite, keep_freed_memory
from small import Small, data
from torch import Tensor, nn
from torch.autograd import profiler
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Counts what makes the processor wait for the numbers of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_waits_for_the_device_between_log_points(precision: str, tmp_path: Path) -> None:
    trainer = Small(tmp_path, train_loader=list(data(96)), log_per_step=4, clip_grad=1.0, precision=precision)
    waits_after: list[int] = []
    update = trainer.update_lr_scheduler
    with Waits() as waits:
        trainer.update_lr_scheduler = lambda: waits_after.append(waits.count) or update()  # type: ignore
        trainer.train_loop()
    assert waits_after == [update // 4 for update in range(1, 13)]  # the gradient's norm is read at each log point


def settings(optimizer: str, weight_decay: float = 0.01) -> Any:
    """What build_optimizers reads."""
    return SimpleNamespace(lr=(0.1,), num_parts=1, optimizer=optimizer, momentum=0.9, weight_decay=weight_decay)


def updated(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[Tensor]:
    """The weights after three updates with the same random gradients."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_optimizers_are_torchs_own_and_fused(name: str) -> None:
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    decayed = [{"params": [theirs.weight], "weight_decay": 0.01}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference: Any = {
        "sgd": lambda: torch.optim.SGD(decayed, 0.1, 0.9, nesterov=True, fused=True),
        "adamw": lambda: torch.optim.AdamW(decayed, 0.1, fused=True),
    }[name]()
    [optimizer] = build_optimizers([ours], settings(name))
    assert isinstance(optimizer, type(reference)) and optimizer.defaults["fused"]
    for one, other in zip(updated(optimizer, ours), updated(reference, theirs), strict=True):
        assert torch.equal(one, other)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state_dict().keys() == reference.state_dict().keys()


def test_hooks_of_optimizer_steps_are_called() -> None:
    network = nn.Linear(2, 2)
    [optimizer] = build_optimizers([network], settings("sgd"))
    calls = []
    optimizer.register_step_pre_hook(lambda *args: calls.append("before"))
    optimizer.register_step_post_hook(lambda *args: calls.append("after"))
    updated(optimizer, network)
    assert calls == ["before", "after"] * 3


def test_a_profiler_sees_the_steps_and_nothing_else_pays_for_it() -> None:
    network = nn.Linear(2, 2)
    [optimizer] = build_optimizers([network], settings("sgd"))
    with torch.profiler.profile() as profile:
        updated(optimizer, network)
    [record] = [event for event in profile.key_averages() if event.key.startswith("Optimizer.step")]
    assert record.count == 3
    with mock.patch.object(profiler, "record_function") as recorded:
        updated(optimizer, network)
    assert not recorded.called


def test_hooks_of_all_optimizers_are_called() -> None:
    network = nn.Linear(2, 2)
    [optimizer] = build_optimizers([network], settings("sgd"))
    calls: list[Any] = []
    hook = register_optimizer_step_post_hook(lambda *args: calls.append(args[0]))
    updated(optimizer, network)
    hook.remove()
    updated(optimizer, network)
    assert calls == [optimizer] * 3


@pytest.mark.skipif(sys.platform != "linux" or "musl" in sysconfig.get_platform(), reason="this is about glibc")
def test_memory_that_tensors_gave_back_is_used_again_without_asking_the_system() -> None:
    script = """
import torch
from resource import RUSAGE_SELF, getrusage
from engine.runtime.shortcuts import keep_freed_memory
keep_freed_memory(torch.device("cpu"))
for _ in range(5):
    before = getrusage(RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2**21) for _ in range(16)]
    while blocks:
        blocks.pop()
print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-B", "-c", script], cwd=SOURCE, check=True, capture_output=True, text=True)
    assert int(done.stdout) < 100  # of 32,768 pages; without the call it is now and then all, now and then none


@pytest.mark.skipif(sys.platform != "linux", reason="this is about glibc")
def test_only_a_run_on_the_cpu_changes_how_memory_is_kept() -> None:
    library = mock.Mock()
    with mock.patch("ctypes.CDLL", return_value=library):
        keep_freed_memory(torch.device("cuda"))
        assert not library.mallopt.called
        keep_freed_memory(torch.device("cpu"))
    assert library.mallopt.call_count == 2


def test_without_weight_decay_there_is_one_group_and_one_kernel() -> None:
    [optimizer] = build_optimizers([nn.Linear(2, 2)], settings("sgd", weight_decay=0.0))
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_part_that_is_wholly_frozen_stays_as_it_is_while_the_others_learn(name: str, tmp_path: Path) -> None:
    trainer = Small(tmp_path, parts=2)
    frozen, learns = trainer.model_list
    frozen.requires_grad_(False)
    both = SimpleNamespace(**vars(settings(name)) | {"num_parts": 2})
    trainer.optimizer_list, trainer.lr_scheduler_list = build_optimizers(trainer.model_list, both), []
    trainer.check_init()
    before = [[parameter.clone() for parameter in part.parameters()] for part in (frozen, learns)]
    trainer.fit(1)
    assert all(map(torch.equal, before[0], frozen.parameters()))
    assert not any(map(torch.equal, before[1], learns.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_of_ours_imports_torchs_compiler(name: str) -> None:
    script = f"""
import sys, torch
from types import SimpleNamespace
from engine.optim.optimizers import build_optimizers
network = torch.nn.Conv2d(3, 4, 3)
settings = SimpleNamespace(lr=(0.1,), num_parts=1, optimizer={name!r}, momentum=0.9, weight_decay=0.01)
[optimizer] = build_optimizers([network], settings)
network(torch.ones(1, 3, 3, 3)).sum().backward()
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-B", "-c", script], cwd=SOURCE).returncode == 0


def test_gradients_are_cleared_and_checked_together() -> None:
    network = nn.Linear(2, 2)
    [optimizer] = build_optimizers([network], settings("sgd"))
    gradients = Gradients([optimizer])
    network(torch.ones(1, 2)).sum().backward()
    watch = NonFiniteWatch()
    for update in range(1, 251):  # more flags than are made at a time, and some that are used again
        gradients.flag_non_finite(watch.flag(update, torch.device("cpu")))
        if update == 120:
            watch.check([])
    network.weight.grad[0, 0] = float("inf")  # type: ignore[index]
    gradients.flag_non_finite(watch.flag(251, torch.device("cpu")))
    with pytest.raises(UserError, match="a gradient became inf or nan at update 251"):
        watch.check([])
    gradients.zero()
    gradients.flag_non_finite(flag := torch.zeros(()))
    assert network.weight.grad is None and flag == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", [0, 2])
def test_the_shortcut_that_looks_for_nan_and_inf_says_what_the_public_call_says(bad: float, where: int) -> None:
    tensors = [torch.randn(3), torch.randn(2, 2), torch.randn(5)]
    for spoilt in (False, True):
        if spoilt:
            tensors[where].view(-1)[1] = bad
        before = [tensor.clone() for tensor in tensors]
        flag_non_finite(tensors, flag := torch.zeros(()))
        assert bool(flag) == spoilt == (not nn.utils.get_total_norm(tensors, float("inf")).isfinite())
        assert all(torch.equal(a.nan_to_num(1), b.nan_to_num(1)) for a, b in zip(tensors, before, strict=True))


def test_private_functions_are_called_in_one_file_alone() -> None:
    private = re.compile(r"torch\.(?:\w+\.)*_[a-z]|import .*\b_[a-z]|ctypes|\._(?:is|amp|optimizer)_")
    for path in (SOURCE / "engine").rglob("*.py"):
        if path.name != "shortcuts.py":
            assert not private.search(path.read_text("utf-8")), path


# ---- Muon ----


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (64, 3, 2, 2), (6, 20, 1), (4, 5, 3, 3, 3)])
def test_muon_makes_every_direction_of_an_update_equally_long(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    update = torch.randn(shape)
    found = orthogonalise(update)
    lengths = torch.linalg.svdvals(found.flatten(1).float())
    scale = max(1.0, shape[0] / update[0].numel()) ** 0.5
    assert found.shape == update.shape and found.dtype == update.dtype
    assert 0.6 * scale < lengths.min() and lengths.max() < 1.3 * scale
    assert (found * update).sum() > 0


def test_muon_turns_convolutions_as_torchs_own_turns_matrices() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(4, 6, 3, bias=False), nn.Linear(36, 6, bias=False)
    for _ in range(3):
        gradient = torch.randn(6, 4, 3, 3)
        theirs.weight.data = ours.weight.data.permute(0, 2, 3, 1).flatten(1).clone()
        ours.weight.grad, theirs.weight.grad = gradient, gradient.permute(0, 2, 3, 1).flatten(1)
        before = ours.weight.detach().clone()
        Muon(ours.parameters(), 0.1, 0.9, weight_decay=0.2).step()
        torch.optim.Muon(theirs.parameters(), 0.1, weight_decay=0.2, momentum=0.9).step()
        assert (ours.weight - before).abs().max() > 0.01
        torch.testing.assert_close(ours.weight.permute(0, 2, 3, 1).flatten(1), theirs.weight, rtol=0, atol=2e-3)


def test_muon_gives_biases_and_matrices_sgds_nesterov_momentum() -> None:
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.SGD(theirs.parameters(), 0.1, 0.9, nesterov=True)
    found = updated(Muon(ours.parameters(), 0.1, 0.9, weight_decay=0.2), ours)
    for one, other in zip(found, updated(reference, theirs), strict=True):
        torch.testing.assert_close(one, other)


def test_muon_calls_a_closure_and_returns_its_loss() -> None:
    network = nn.Linear(2, 1)

    def closure() -> Tensor:
        loss = network(torch.ones(1, 2)).sum()
        loss.backward()
        return loss

    assert Muon(network.parameters(), 0.1).step(closure).requires_grad
