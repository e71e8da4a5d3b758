"""Several processes that train as one, started by torchrun: what is whose, and what they tell each other.

Each holds the whole network and computes on its share of every batch; DistributedDataParallel averages gradients. Sums,
scores and stops are agreed on, so that every process takes the same decisions. Started by `python` there is one
process, for which nothing here costs or changes anything.
"""

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from functools import reduce
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from . import UserError
from .devices import AS_IT_IS, to_device
from .sharding import shard

T = TypeVar("T")


def world_size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This one's number, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


@contextmanager
def joined(settings: Any) -> Iterator[None]:
    """Inside, the processes that torchrun has started know each other, and all but rank 0 print nothing.

    They stay connected until they end, which they must do by `engine.leave`.

    Args:
        settings: `device`, where each process gets a GPU of its own unless it is "cpu", and `sync_timeout`, the minutes
            after which a process that is late is taken for lost; one that has ended is noticed at once.

    Raises:
        UserError: more processes than GPUs, or an accelerator of another kind.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield
        return
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(f"process {local} of this host has no GPU; set --nproc-per-node to {gpus}, or --device cpu")
        torch.cuda.set_device(local)
    elif settings.device != "cpu" and torch.accelerator.is_available():
        raise UserError("several processes train on GPUs of NVIDIA or AMD, or on CPUs; give --device cpu")
    # What lies on the CPU, as stops and scores do, never waits for a GPU.
    from torch.distributed.rendezvous import rendezvous  # here, since builds of torch without it train alone

    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    store, number, world = next(rendezvous("env://"))
    store.set_timeout(timeout := timedelta(minutes=settings.sync_timeout))
    dist.init_process_group(backend, store=meet(store, number, world), rank=number, world_size=world, timeout=timeout)
    with ExitStack() as stack:
        if not is_main():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield
    dist.barrier()  # not after an error: the others may be waiting for what never comes


def meet(store: Any, number: int, world: int) -> Any:
    """The store, for these processes alone: after a restart torchrun gives the one that the processes before had.

    What they left there would be taken for addresses of today. So rank 0 finds a new name, and answers all who come to
    it; under a name from before nobody answers.
    """
    if number == 0:
        name = uuid4().hex
        store.set("meeting", name)
        for other in range(1, world):
            store.set(f"{name}/{store.get(f'{name}/{other}').decode()}", "welcome")
        return dist.PrefixStore(name, store)
    me = uuid4().hex
    while True:
        name = store.get("meeting").decode()
        store.set(f"{name}/{number}", me)
        with suppress(dist.DistStoreError):
            store.wait([f"{name}/{me}"], timedelta(seconds=1))
            return dist.PrefixStore(name, store)


# ---- who does what ----


def replicate(
    model_list: list[nn.Module], optimizer_list: list[Optimizer], device: torch.device, strategy: str
) -> list[nn.Module]:
    """The parts on the device, in the form in which they train together: gradients become the mean over all processes.

    With the strategy "ddp" each process keeps all of them, with "fsdp" a piece of each, which its optimizer then has.
    On GPUs batch normalisation takes its statistics over all processes; on CPUs, where torch cannot, over each one's.

    Raises:
        UserError: a device that all would share.
    """
    if world_size() == 1 or strategy != "fsdp":  # which divides before it moves: the whole may not fit
        for model in model_list:
            model.to(device)
    if world_size() == 1:
        return model_list
    if device.index is not None:
        raise UserError(f"device {device} is one for all processes; set device to auto, cuda or cpu under torchrun")
    if device.type == "cuda":
        model_list[:] = [nn.SyncBatchNorm.convert_sync_batchnorm(model) for model in model_list]
    if strategy == "fsdp":
        shard(model_list, optimizer_list, device, world_size())
        return model_list
    trained = [any(p.requires_grad for p in model.parameters()) for model in model_list]
    return [DistributedDataParallel(m) if train else m for m, train in zip(model_list, trained, strict=True)]


def training_together(trainer: Any, last: bool) -> AbstractContextManager[None]:
    """Inside, the trainer's parts are its replicas; gradients are exchanged in the backward pass of the last batch."""
    # Divided parts, which are no replicas, exchange after every batch: until then each process would hold whole ones.
    return AS_IT_IS if trainer.replicas is trainer.model_list else _as_replicas(trainer, last)


@contextmanager
def _as_replicas(trainer: Any, last: bool) -> Iterator[None]:
    alone, trainer.model_list = trainer.model_list, trainer.replicas
    try:
        with ExitStack() as stack:
            for replica in trainer.replicas:
                if not last and isinstance(replica, DistributedDataParallel):
                    stack.enter_context(replica.no_sync())
            yield
    finally:
        trainer.model_list = alone


@torch.no_grad()
def share_buffers(model_list: list[nn.Module]) -> None:
    """Gives every process the buffers of rank 0, as statistics of batch normalisation."""
    if world_size() > 1:
        for buffer in (buffer for model in model_list for buffer in model.buffers()):
            values = buffer.contiguous()
            dist.broadcast(values, 0)
            buffer.copy_(values)


# ---- what they tell each other ----


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_main(function: Callable[..., T], *args: Any) -> T:
    """What the function returns, called by rank 0 alone; a UserError that it raises is raised in all."""
    if world_size() == 1:
        return function(*args)
    answer: list[Any] = [None]
    if is_main():
        try:
            answer = [function(*args)]
        except UserError as error:
            answer = [error]
    dist.broadcast_object_list(answer, 0)
    if isinstance(answer[0], UserError):
        raise answer[0]
    return answer[0]  # type: ignore[no-any-return]


@contextmanager
def main_first() -> Iterator[None]:
    """The block in rank 0 before it is in the others, as for a download that these then find."""
    if not is_main():
        dist.barrier()
    try:
        yield
    finally:
        if is_main() and world_size() > 1:
            dist.barrier()


def merge(score: Any) -> None:
    """Makes a score of the whole set one of all processes' samples: what its `sums` name adds up."""
    if world_size() > 1:
        for name in getattr(score, "sums", ()):
            values = gather(to_device(getattr(score, name), torch.device("cpu")))
            setattr(score, name, reduce(operator.add, values))


class Vote:
    """Whether any process asks for something, put to all of them again and again.

    The answer is the one to the question before: it has come by now, and nothing waits for it.
    """

    def __init__(self) -> None:
        self.alone = world_size() == 1
        self.asked: tuple[Any, Tensor] | None = None

    def __call__(self, number: int) -> int:
        """The largest number that a process gave in the last call, 0 in the first; `number` itself if there is one."""
        if self.alone:
            return number
        answer = self.close()
        flag = torch.tensor(number)
        self.asked = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True), flag
        return answer

    def close(self) -> int:
        """The answer to the last question, after which none is open."""
        if not self.asked:
            return 0
        work, flag = self.asked
        work.wait()
        self.asked = None
        return int(flag)
