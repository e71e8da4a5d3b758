"""Data set splits: training, validation and test samples, and what is held out of training if there are no others.

Samples are held out at random, stratified, or as whole groups, or the latest ones; or fold by fold.
"""

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

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
DRAWS = 32  # of groups to hold out; the best stratified one is taken


class SplitConfig(Protocol):
    """The settings that say what is held out; config.py explains them."""

    @property
    def val_fraction(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def folds(self) -> int: ...
    @property
    def fold(self) -> int: ...


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


def hold_out(strata: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the samples to train on and of those held out: `fraction` of every stratum, chosen by the seed.

    Args:
        strata: number of each sample's stratum, shape (N,): its class, or 0 for all to hold out regardless of class.
        fraction: part held out, 0 to 1; a stratum with two or more samples gives at least one and keeps at least one.
        seed: chooses the samples.
    """
    order = torch.randperm(len(strata), generator=epoch_generator(seed, 0))
    is_held_out = torch.zeros(len(strata), dtype=torch.bool)
    for stratum in strata.unique():
        members = order[strata[order] == stratum]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        is_held_out[members[:count]] = True
    return _both(is_held_out)


def hold_out_groups(groups: Tensor, strata: Tensor, fraction: float, seed: int, keep: int = 1) -> tuple[Tensor, Tensor]:
    """The same of whole groups: no group has samples in both.

    Groups are drawn one after another, and one is taken if it brings the number of samples nearer to the fraction. Of
    `DRAWS` such draws that one is chosen whose strata are nearest to it, so that the stratification is approximate.

    Args:
        groups: number of each sample's group, shape (N,).
        strata: number of each sample's stratum, shape (N,).
        fraction: part of the samples to hold out, 0 to 1; at least one group is.
        seed: of the draws.
        keep: how many groups are kept at least.

    Raises:
        UserError: there are too few groups.
    """
    group_of, of_stratum = (numbers.unique(return_inverse=True)[1] for numbers in (groups, strata))
    sizes, totals = group_of.bincount(), of_stratum.bincount()
    if len(sizes) <= keep:
        raise UserError(
            f"the samples to hold some out of are of {len(sizes)} groups, which stay whole; {keep + 1} are the least"
        )
    generator = epoch_generator(seed, 0)

    def distance(held: Tensor) -> tuple[int, float]:
        """How many strata have no sample left, and how far the others are from the fraction."""
        counts = of_stratum[held].bincount(minlength=len(totals))
        return int((counts == totals).sum()), float((counts - fraction * totals).abs().sum())

    draws = [_draw_groups(sizes, fraction * len(groups), len(sizes) - keep, generator) for _ in range(DRAWS)]
    return _both(min((drawn[group_of] for drawn in draws), key=distance))


def _draw_groups(sizes: Tensor, wanted: float, most: int, generator: torch.Generator) -> Tensor:
    """Which groups are drawn, shape (G,), until they have about as many samples as wanted: one or more of them.

    Args:
        sizes: of all groups, shape (G,).
        wanted: number of samples.
        most: number of groups that may be taken.
        generator: of the order in which they are drawn.
    """
    order, smallest = torch.randperm(len(sizes), generator=generator), int(sizes.min())
    taken: list[int] = []
    total = 0
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        if len(taken) == most or wanted - total <= smallest / 2:
            break
        if abs(total + size - wanted) < abs(total - wanted):
            taken.append(group)
            total += size
    drawn = torch.zeros(len(sizes), dtype=torch.bool)
    drawn[taken or [int(sizes.argmin())]] = True
    return drawn


def hold_out_latest(times: Tensor, fraction: float, keep: int = 1) -> tuple[Tensor, Tensor]:
    """The same of the latest samples: none that is kept is later than one that is held out.

    Samples of one time are all kept or all held out, if that leaves at least `keep` of all and holds out one. Then the
    number of those held out is the nearest to the fraction that is possible.

    Args:
        times: of the samples, shape (N,).
        fraction: part held out, 0 to 1.
        keep: how many samples are kept at least.

    Raises:
        UserError: a time is NaN or inf.
    """
    if unknown := int((~times.isfinite()).sum()):
        raise UserError(
            f"{unknown:,} of {len(times):,} samples have no time to hold them out by; give each one, or none"
        )
    order, count = times.argsort(stable=True), len(times)
    first = count - max(0, min(max(1, round(fraction * count)), count - keep))  # of those held out, in that order
    changes = (times[order].diff() > 0).nonzero().flatten() + 1
    changes = changes[changes >= keep]
    if len(changes):
        first = int(changes[(changes - first).abs().argmin()])
    is_held_out = torch.zeros(count, dtype=torch.bool)
    is_held_out[order[first:]] = True
    return _both(is_held_out)


def _both(is_held_out: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the samples that are not held out, and of those that are, from booleans (N,)."""
    return (~is_held_out).nonzero().flatten(), is_held_out.nonzero().flatten()


def fold_of_each(strata: Tensor, folds: int, seed: int) -> Tensor:
    """In which fold, 1 to `folds`, each sample is held out as val, shape (N,); 0 for one that always is in train.

    Folds differ in size by one sample at most, and so do the samples of a stratum in them. One without others of its
    stratum always is in train.

    Args:
        strata: number of each sample's stratum, shape (N,).
        folds: how many.
        seed: chooses the samples.
    """
    order = torch.randperm(len(strata), generator=epoch_generator(seed, 0))
    order = order[strata[order].argsort(stable=True)]
    number_of, counts = strata.unique(return_inverse=True, return_counts=True)[1:]
    order = order[counts[number_of[order]] > 1]
    fold_of = torch.zeros(len(strata), dtype=torch.long)
    fold_of[order] = torch.arange(len(order)) % folds + 1
    return fold_of


def fold_of_each_group(groups: Tensor, strata: Tensor, folds: int, seed: int) -> Tensor:
    """The same for whole groups: the largest first, each goes where its strata, and then all samples, are the fewest.

    Folds are of about one size, and stratified approximately.

    Args:
        groups: number of each sample's group, shape (N,).
        strata: number of each sample's stratum, shape (N,).
        folds: how many; there must be as many groups.
        seed: of the order of groups of one size.
    """
    group_of, of_stratum = (numbers.unique(return_inverse=True)[1] for numbers in (groups, strata))
    sizes, totals = group_of.bincount(), of_stratum.bincount().tolist()
    pairs, counts = (group_of * len(totals) + of_stratum).unique(return_counts=True)
    parts: list[list[tuple[int, float]]] = [[] for _ in sizes]  # of each stratum, which part a group has
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        group, stratum = divmod(pair, len(totals))
        parts[group].append((stratum, count / totals[stratum]))
    order = torch.randperm(len(sizes), generator=epoch_generator(seed, 0))
    order = order[sizes[order].argsort(descending=True, stable=True)]
    filled, samples = [[0.0] * len(totals) for _ in range(folds)], [0] * folds
    fold_of = [0] * len(sizes)
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        costs = [sum(filled[fold][stratum] * part for stratum, part in parts[group]) for fold in range(folds)]
        fold = min(range(folds), key=list(zip(costs, samples, strict=True)).__getitem__)
        for stratum, part in parts[group]:
            filled[fold][stratum] += part
        samples[fold] += size
        fold_of[group] = fold + 1
    return torch.tensor(fold_of)[group_of]


def check_folds(folds: int, fold: int) -> None:
    """Raises a UserError for a fold that is not one of the folds."""
    if fold and folds == 1:
        raise UserError(f"--fold {fold} is one of several; give --folds, their number, too")
    if fold > folds:
        raise UserError(f"--fold {fold} is none of --folds {folds}; give 1 to {folds}, or 0 for all in turn")


def choose_splits(
    config: SplitConfig,
    strata: Mapping[str, Tensor],
    test_fraction: float = 0.0,
    together: Mapping[str, Tensor] | None = None,
    order: Mapping[str, Tensor] | None = None,
) -> dict[str, tuple[str, Tensor]]:
    """(split on the disk, sample numbers) for each of train, val and, if there is one, test.

    Without a val split parts of train are held out: one as val and, if there is no test split either, one as test.
    Test never chooses the model, and which samples it has depends neither on `val_fraction` nor on folds. With K folds
    val is the k-th of K parts of all that is not test: each sample is in val in one fold, but one that is alone in its
    stratum, which always is in train. What is held out is printed.

    Args:
        config: `val_fraction`, part of train to hold out as val; `seed`, which chooses the samples; `folds` and `fold`.
        strata: of each split on the disk, the number of each sample's stratum, such as its class, shape (N,): of every
            stratum the same part is held out.
        test_fraction: part of train to hold out as test; 0: none.
        together: the number of each sample's group, such as a patient, shape (N,), the same number in all splits: what
            is held out is whole groups, so that the stratification is only approximate.
        order: the time of each sample, float64 of shape (N,): the latest are test, those before them val.

    Raises:
        UserError: nothing can be held out, or nothing would be left; folds with a val split or with times; more folds
            than there are samples or groups.
    """
    check_folds(config.folds, config.fold)
    if together is not None and order is not None:
        raise UserError("samples are held out by group or by time, not by both; leave one of them out")
    if together is not None:
        _note_shared_groups(together)
    chosen = {name: (name, torch.arange(len(members))) for name, members in strata.items()}
    if config.folds > 1:
        _check_for_folds(config, "val" in chosen, order is not None)
    if "val" not in chosen:
        of_train = [None if by_split is None else by_split["train"] for by_split in (together, order)]
        fraction = 0.0 if "test" in chosen else test_fraction
        parts = _held_out(config, strata["train"], fraction, *of_train)
        chosen |= {name: ("train", numbers) for name, numbers in parts.items()}
    return {name: chosen[name] for name in ("train", "val", "test") if name in chosen}


def _held_out(
    config: SplitConfig, strata: Tensor, test_fraction: float, groups: Tensor | None, times: Tensor | None
) -> dict[str, Tensor]:
    """The samples of train, val and, unless `test_fraction` is 0, test, all of them from train; prints how."""

    def parted(samples: Tensor, fraction: float, keep: int) -> tuple[Tensor, Tensor]:
        """Those of the samples to keep, and those to hold out."""
        if times is not None:
            kept, held = hold_out_latest(times[samples], fraction, keep)
        elif groups is not None:
            kept, held = hold_out_groups(groups[samples], strata[samples], fraction, config.seed, keep)
        else:
            kept, held = hold_out(strata[samples], fraction, config.seed)
        return samples[kept], samples[held]

    parts: dict[str, Tensor] = {}
    kept, rest = torch.arange(len(strata)), 1 - test_fraction
    if test_fraction:
        if config.folds == 1 and config.val_fraction >= rest:
            raise UserError(
                f"--val_fraction {config.val_fraction} and --test_fraction {test_fraction} leave nothing to train on; "
                "their sum must be below 1"
            )
        kept, parts["test"] = parted(kept, test_fraction, 2)  # of two val can be held out, too
    if config.folds > 1:
        in_val = _in_fold(config, strata[kept], None if groups is None else groups[kept])
        parts |= {"train": kept[~in_val], "val": kept[in_val]}
        flags = f"--folds {config.folds}"
    else:
        parts["train"], parts["val"] = parted(kept, config.val_fraction / rest, 1)
        flags = f"--val_fraction {config.val_fraction}"
    if not len(parts["val"]):
        raise UserError("train has too few samples to hold some out; add samples, or a val split")
    names = {"val": f"val, fold {config.fold} of {config.folds}," if config.folds > 1 else "val", "test": "test"}
    if groups is not None:
        counts = {name: len(groups[parts[name]].unique()) for name in names if name in parts}
        names = {name: f"{names[name].rstrip(',')} ({count:,} groups)" for name, count in counts.items()}
    said = " and ".join(names[name] for name in names if name in parts).rstrip(",")
    flags += f" --test_fraction {test_fraction}" if test_fraction else ""
    by = f", the latest ({flags})" if times is not None else f" ({flags} --seed {config.seed})"
    print(textwrap.fill(f"held out: {said}{by}", 79, subsequent_indent="    ", break_on_hyphens=False))
    return parts


def _in_fold(config: SplitConfig, strata: Tensor, groups: Tensor | None) -> Tensor:
    """Whether each sample is in val in the fold that is chosen, shape (N,); a UserError if there are too few."""
    if not config.fold:
        raise UserError(f"--folds {config.folds} needs a --fold, 1 to {config.folds}; train.py trains each in turn")
    if groups is None:
        fold_of, what = fold_of_each(strata, config.folds, config.seed), "samples"
        count = int((fold_of > 0).sum())
    else:
        count, what = len(groups.unique()), "groups"
        fold_of = fold_of_each_group(groups, strata, config.folds, config.seed)
    if count < config.folds:
        raise UserError(f"--folds {config.folds} are more than the {count} {what} that can be held out; give fewer")
    return fold_of == config.fold


def _check_for_folds(config: SplitConfig, has_val: bool, has_times: bool) -> None:
    """Raises a UserError for data of which no folds can be made."""
    if has_val:
        raise UserError(
            f"--folds {config.folds} holds out each part of train in turn, and there is a val split; add it to train, "
            "or leave --folds out"
        )
    if has_times:
        raise UserError(
            f"--folds {config.folds} would train on samples later than those of val; leave --folds out, or the times"
        )


def _note_shared_groups(together: Mapping[str, Tensor]) -> None:
    """Prints how many groups of train are in another split on the disk, too."""
    for name in ("val", "test"):
        shared = torch.isin(together["train"].unique(), together[name]) if name in together else torch.zeros(0)
        if count := int(shared.sum()):
            print(f"note: {count:,} groups of train are in {name}, too: its scores are too good")


def make_splits(
    config: SplitConfig,
    data: Mapping[str, tuple[Any, Any]],
    strata: Mapping[str, Tensor],
    test_fraction: float = 0.0,
    together: Mapping[str, Tensor] | None = None,
    order: Mapping[str, Tensor] | None = None,
) -> dict[str, Split]:
    """The splits that `choose_splits` selects, of inputs and targets in `data`."""
    chosen = choose_splits(config, strata, test_fraction, together, order)
    return {name: Split(*data[source], indices) for name, (source, indices) in chosen.items()}


def sizes_of(splits: Mapping[str, Split]) -> str:
    """How many samples each split has, in words: "900 train, 100 val"."""
    return ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
