"""Data set splits: training, validation and test samples, and a validation set held out if there is none."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..runtime.errors import UserError
from ..runtime.seeding import epoch_generator, preserve_rng_state, seed_sample

# What the folder or file of a split may be called, in any case.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def by_split(paths: Iterable[Path]) -> dict[str, Path]:
    """Those of the folders or files that are called like a split, by its name: "train", "val" or "test".

    Raises:
        UserError: two of them are of one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        stem = path.name.split(".")[0].lower()
        for split, names in SPLIT_NAMES.items():
            if stem in names and found.setdefault(split, path) != path:
                raise UserError(f"{found[split]} and {path} are both there for {split}; remove or rename one")
    return {split: found[split] for split in SPLIT_NAMES if split in found}


class Split(Dataset[Any]):
    """One split of a data set: the samples of inputs `x` and targets `y` at `indices`, read a whole batch at a time.

    Args:
        x: inputs that a tensor of sample numbers, shape (B,), indexes to a batch: a tensor, or an object that reads
            files when it is indexed.
        y: targets, indexed in the same way.
        indices: numbers of the samples that belong to this split, shape (N,).
    """

    def __init__(self, x: Any, y: Any, indices: Tensor) -> None:
        self.x = x
        self.y = y
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, positions: list[int]) -> tuple[Any, Any]:
        samples = self.indices[positions]
        return self.x[samples], self.y[samples]

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        x, y = self.__getitems__([position])
        return x[0], y[0]

    @property
    def in_memory(self) -> bool:
        """Whether reading needs no worker process."""
        return isinstance(self.x, Tensor) or getattr(self.x, "in_memory", False)

    def preview(self, count: int) -> tuple[Any, Any]:
        """A batch of so many samples from all over the split, always the same ones, for figures."""
        return self.__getitems__(torch.randperm(len(self), generator=epoch_generator(0, 0))[:count].tolist())

    def eval_batches(self, batch_size: int) -> list[list[int]]:
        """The batches of an evaluation, as positions in the split: in order, none left out, the last may be smaller."""
        return batches_in_order(len(self), batch_size)


class BalancedSplit(Split):
    """A split of which an epoch has every group equally often, or once more: as many samples as there are, drawn anew.

    A group of few samples is repeated, each of them equally often or once more; of a large one a part is drawn. Which
    samples an epoch has follows from (seed, epoch). What is drawn by position, such as augmentation, differs between
    the repetitions of a sample.

    Args:
        split: the samples.
        groups: number of each sample's group, such as its class, shape (N,); those that have no sample do not count.
        seed: of what is drawn.
    """

    def __init__(self, split: Split, groups: Tensor, seed: int) -> None:
        super().__init__(split.x, split.y, split.indices)
        self.seed = seed
        sizes = groups.unique(return_counts=True)[1]
        self.members = split.indices[groups.argsort(stable=True)].split(sizes.tolist())
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draws the samples of an epoch."""
        generator = epoch_generator(self.seed, epoch)
        count, rest = divmod(len(self), len(self.members))
        once_more = torch.randperm(len(self.members), generator=generator) < rest
        drawn: list[Tensor] = []
        for members, more in zip(self.members, once_more.tolist(), strict=True):
            rounds, part = divmod(count + more, len(members))
            drawn += [members.repeat(rounds), members[torch.randperm(len(members), generator=generator)[:part]]]
        self.indices = torch.cat(drawn)


class SeededSamples(Dataset[Any]):
    """Another Dataset, whose random numbers for a sample, such as those of its augmentation, follow from the epoch.

    Before each sample the generators of Python, NumPy and torch are seeded by (seed, epoch, position), and after a
    batch they are as before. So a resumed run draws what it would have drawn, with any number of worker processes.

    Args:
        dataset: any Dataset with a length; attributes that this one does not have are its own.
        seed: of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, while this is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose random numbers are drawn, and tells the data set."""
        self.epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, position: int) -> Any:
        seed_sample(self.seed, self.epoch, position)
        return self.dataset[position]

    def __getitems__(self, positions: list[int]) -> Any:
        with preserve_rng_state(torch.device("cpu")):
            if hasattr(self.dataset, "__getitems__"):  # it reads a whole batch at a time
                seed_sample(self.seed, self.epoch, positions[0])
                return self.dataset.__getitems__(positions)
            return [self[position] for position in positions]


def batches_in_order(length: int, batch_size: int) -> list[list[int]]:
    """The positions of so many samples in order, in batches; the last may be smaller."""
    return [list(range(start, min(start + batch_size, length))) for start in range(0, length, batch_size)]


def hold_out(groups: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the samples to train on and of those held out: `fraction` of every group, chosen by the seed.

    Args:
        groups: number of each sample's group, shape (N,): its class, or 0 for all to hold out regardless of class.
        fraction: part held out, 0 to 1; a group with two or more samples gives at least one and keeps at least one.
        seed: chooses the samples.
    """
    order = torch.randperm(len(groups), generator=epoch_generator(seed, 0))
    held: list[Tensor] = []
    for group in groups.unique():
        members = order[groups[order] == group]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        held.append(members[:count])
    held_out = torch.cat(held).sort().values
    kept = torch.ones(len(groups), dtype=torch.bool)
    kept[held_out] = False
    return kept.nonzero().flatten(), held_out


def choose_splits(
    groups: Mapping[str, Tensor], val_fraction: float, seed: int, test_fraction: float = 0.0
) -> dict[str, tuple[str, Tensor]]:
    """(split on the disk, sample numbers) for each of train, val and, if there is one, test.

    Without a val split parts of train are held out: one as val and, if there is no test split either, one as test.
    Test never chooses the model, and which samples it has does not depend on `val_fraction`.

    Args:
        groups: of each split on the disk, the number of each sample's group, shape (N,).
        val_fraction: part of train to hold out as val.
        seed: chooses the samples.
        test_fraction: part of train to hold out as test; 0: none.

    Raises:
        UserError: nothing can be held out, or nothing would be left.
    """
    chosen = {name: (name, torch.arange(len(members))) for name, members in groups.items()}
    if "val" not in chosen:
        kept, rest, said = chosen["train"][1], 1.0, f"--seed {seed}"
        if test_fraction and "test" not in chosen:
            rest, said = 1 - test_fraction, f"--test_fraction {test_fraction} {said}"
            if val_fraction >= rest:
                raise UserError(
                    f"--val_fraction {val_fraction} and --test_fraction {test_fraction} leave nothing to train on; "
                    "their sum must be below 1"
                )
            kept, test = hold_out(groups["train"], test_fraction, seed)
            chosen["test"] = "train", test
        train, val = (kept[numbers] for numbers in hold_out(groups["train"][kept], val_fraction / rest, seed))
        if not len(val):
            raise UserError("train has too few samples to hold some out; add samples, or a val split")
        chosen |= {"train": ("train", train), "val": ("train", val)}
        held_out = " and ".join(name for name in ("val", "test") if chosen.get(name, (name,))[0] != name)
        print(f"held out: {held_out} (--val_fraction {val_fraction} {said})")
    return {name: chosen[name] for name in ("train", "val", "test") if name in chosen}


def make_splits(
    data: Mapping[str, tuple[Any, Any]],
    groups: Mapping[str, Tensor],
    val_fraction: float,
    seed: int,
    test_fraction: float = 0.0,
) -> dict[str, Split]:
    """The splits that `choose_splits` selects, of inputs and targets in `data`."""
    chosen = choose_splits(groups, val_fraction, seed, test_fraction)
    return {name: Split(*data[source], indices) for name, (source, indices) in chosen.items()}


def sizes_of(splits: Mapping[str, Split]) -> str:
    """How many samples each split has, in words: "900 train, 100 val"."""
    return ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
