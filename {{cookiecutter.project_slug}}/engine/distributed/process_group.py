"""The process group: how the processes that torchrun starts find each other, and what they tell each other.

With one process, started by plain `python`, everything here does nothing.
"""

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from functools import reduce
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..runtime.command_line import started_by_torchrun
from ..runtime.devices import to_device
from ..runtime.errors import UserError

T = TypeVar("T")


class ProcessGroupConfig(Protocol):
    """The settings that `process_group` reads."""

    @property
    def device(self) -> str: ...
    @property
    def sync_timeout(self) -> float: ...


def world_size() -> int:
    """The number of processes in the process group; 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number in the process group, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_rank_0() -> bool:
    """Whether this is the process that prints and writes files."""
    return rank() == 0


@contextmanager
def process_group(config: ProcessGroupConfig) -> Iterator[None]:
    """Inside, the processes that torchrun has started form a process group, and only rank 0 prints.

    The group lasts until the processes end, which they must do by `exit_at_once`.

    Args:
        config: `device`: each process gets a GPU of its own unless this is "cpu". `sync_timeout`: minutes after which a
            process that does not answer is considered failed; one that has ended is noticed at once.

    Raises:
        UserError: more processes than GPUs, or an accelerator of another kind.
    """
    if not started_by_torchrun():
        yield
        return
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local_rank >= gpus:
            raise UserError(
                f"process {local_rank} of this host has no GPU; set --nproc-per-node to {gpus}, or --device cpu"
            )
        torch.cuda.set_device(local_rank)
    elif config.device != "cpu" and torch.accelerator.is_available():
        raise UserError("several processes train on NVIDIA or AMD GPUs, or on CPUs; give --device cpu")
    # Tensors on the CPU, as stop requests and scores, never wait for a GPU.
    from torch.distributed.rendezvous import rendezvous  # here, since builds of torch without it train alone

    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    store, number, world = next(rendezvous("env://"))
    store.set_timeout(timeout := timedelta(minutes=config.sync_timeout))
    store = fresh_store(store, number, world)
    dist.init_process_group(backend, store=store, rank=number, world_size=world, timeout=timeout)
    with ExitStack() as stack:
        if not is_rank_0():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    dist.barrier()  # not after an error, when the other processes may be waiting for something else


def fresh_store(store: Any, number: int, world: int) -> Any:
    """A store of keys and values for these processes alone; they meet there and exchange their addresses.

    After a restart torchrun hands out the store of the processes before, whose addresses must not be used again. So
    rank 0 makes up a new prefix for all keys. Every other process writes a key under the prefix that it reads until
    rank 0 acknowledges it; under a prefix from before the restart nobody does.
    """
    if number == 0:
        prefix = uuid4().hex
        store.set("prefix", prefix)
        for other in range(1, world):
            store.set(f"{prefix}/{store.get(f'{prefix}/{other}').decode()}", "welcome")
        return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
    me = uuid4().hex
    while True:
        prefix = store.get("prefix").decode()
        store.set(f"{prefix}/{number}", me)
        with suppress(dist.DistStoreError):
            store.wait([f"{prefix}/{me}"], timedelta(seconds=1))
            return dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def all_gather(value: T) -> list[T]:
    """The values of all processes, in the order of ranks; any objects that pickle can write."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def on_rank_0(function: Callable[..., T], *args: Any) -> T:
    """Calls the function on rank 0 alone and returns its result on every rank; a UserError is raised on every rank."""
    if world_size() == 1:
        return function(*args)
    answer: list[Any] = [None]
    if is_rank_0():
        try:
            answer = [function(*args)]
        except UserError as error:
            answer = [error]
    dist.broadcast_object_list(answer, 0)
    if isinstance(answer[0], UserError):
        raise answer[0]
    return answer[0]  # type: ignore[no-any-return]


@contextmanager
def rank_0_first() -> Iterator[None]:
    """The block runs on rank 0 before it runs on the others, which then find on the disk what it has downloaded."""
    if not is_rank_0():
        dist.barrier()
    try:
        yield
    finally:
        if is_rank_0() and world_size() > 1:
            dist.barrier()


def sum_over_processes(metric: Any) -> None:
    """Adds up, in place and over all processes, the attributes of a metric that its `sums` names.

    torchmetrics' metrics, which have no `sums`, do so by themselves.

    Raises:
        UserError: a metric of another kind without `sums`.
    """
    if world_size() == 1 or hasattr(metric, "dist_sync_fn"):  # which torchmetrics' metrics have
        return
    if not hasattr(metric, "sums"):
        raise UserError(
            f"{type(metric).__name__} in dataset_metrics does not say what is added up over processes; name these "
            'attributes in its class, as sums = ("hits", "total")'
        )
    for name in metric.sums:
        values = all_gather(to_device(getattr(metric, name), torch.device("cpu")))
        setattr(metric, name, reduce(operator.add, values))


@torch.no_grad()
def broadcast(tensors: list[Tensor]) -> None:
    """Gives every process the values of rank 0."""
    if world_size() == 1:
        return
    for tensor in tensors:
        values = tensor.contiguous()
        dist.broadcast(values, 0)
        tensor.copy_(values)


def broadcast_buffers(model_list: list[nn.Module]) -> None:
    """Gives every process the buffers of rank 0, such as the running statistics of batch normalisation."""
    broadcast([buffer for model in model_list for buffer in model.buffers()])


class DelayedMax:
    """The maximum over processes of the numbers of the previous call, by an asynchronous all-reduce."""

    def __init__(self) -> None:
        self.pending: tuple[Any, Tensor] | None = None

    def __call__(self, number: int) -> int:
        """The maximum over all processes of the call before, 0 in the first; with one process `number` itself."""
        if world_size() == 1:
            return number
        answer = self.finish()
        flag = torch.tensor(number)
        self.pending = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True), flag
        return answer

    def finish(self) -> int:
        """The maximum of the last call, after which no all-reduce is pending."""
        if not self.pending:
            return 0
        work, flag = self.pending
        work.wait()
        self.pending = None
        return int(flag)
