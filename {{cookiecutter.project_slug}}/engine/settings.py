"""Settings: what the types in config.py allow, flags, config.json, and what a resumed run may change.

Imports no torch, so that `python train.py --help` answers at once.
"""

import json
import math
import os
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from .runtime.errors import UserError
from .runtime.files import atomic_write

# ---- types of the fields in config.py ----


@dataclass(frozen=True)
class Range:
    """The numbers that a setting may be; of a tuple or list, each of its numbers. None is not checked."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        words = [f"{self.at_least:g} or more"] if self.at_least > -math.inf else []
        words += [f"above {self.above:g}"] if self.above > -math.inf else []
        words += [f"below {self.below:.15g}"] if self.below < math.inf else []
        words += [f"{self.at_most:g} or less"] if self.at_most < math.inf else []
        return " and ".join(words)


def one_of(table: Mapping[str, Any]) -> PrimitiveConstructorSpec[str]:
    """Annotates a setting that is a key of a table, as in `Annotated[str, one_of(OPTIMIZERS)]`."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="|".join(table),
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: value in table,
        str_from_instance=lambda value: [value],
        choices=tuple(table),
    )


@dataclass(frozen=True)
class FormerName:
    """What an earlier version called the setting: still accepted, as a flag and in config.json."""

    name: str


class _Changeable:
    """Marks a setting that a resumed run may change."""


T = TypeVar("T")
N = TypeVar("N", int, float)

Positive = Annotated[N, Range(above=0)]
NonNegative = Annotated[N, Range(at_least=0)]
Fraction = Annotated[float, Range(at_least=0, below=1)]
MayChange = Annotated[T, _Changeable()]  # by a resumed run; changing any other setting would make it another run

C = TypeVar("C", bound=Any)  # an instance of the dataclass in config.py


def _annotations(config: Any) -> dict[str, list[Any]]:
    """By setting, what its type is annotated with; of a tuple also what the type of its values is."""

    def extras(hint: Any) -> Iterator[Any]:
        yield from getattr(hint, "__metadata__", ())
        for inner in get_args(hint) if get_origin(hint) is not Literal else ():
            yield from extras(inner)

    hints = get_type_hints(type(config), include_extras=True)
    return {field.name: list(extras(hints[field.name])) for field in fields(config)}


def check_values(config: Any) -> None:
    """Raises a UserError for the first value that is not what its type in config.py allows."""
    hints = get_type_hints(type(config))
    for name, extras in _annotations(config).items():
        value = getattr(config, name)
        if not _has_type(value, hints[name]):
            raise UserError(f"{name} is {value!r}; it must be {_words(hints[name])}")
        for extra in extras:
            if isinstance(extra, PrimitiveConstructorSpec) and value not in (None, *(extra.choices or ())):
                raise UserError(f"--{name} {value} is unknown; choose one of {', '.join(extra.choices or ())}")
        numbers = value if isinstance(value, (tuple, list)) else () if value is None else (value,)
        for number in numbers:
            for allowed in (extra for extra in extras if isinstance(extra, Range)):
                if number not in allowed:
                    finite = "" if abs(number) < math.inf else " and finite"
                    raise UserError(f"--{name} {number} must be {allowed}{finite}")


# ---- from flags and files to settings ----


def parse(defaults: C, argv: list[str]) -> C:
    """The flags in `argv` applied to `defaults`; with --config FILE, to the settings in that file.

    Raises:
        UserError: a number outside its range, or a FILE that holds no settings of this project.
        SystemExit: --help, or a flag or value that does not exist; the reason has been printed.
    """
    argv = [_present_flag(argument, defaults) for argument in argv]
    config = _parse_flags(defaults, argv)
    if config.config != defaults.config:
        defaults = replace(load(defaults, Path(config.config)), resume="", smoke=False)
        config = _parse_flags(defaults, argv)
    if config.smoke:
        config = _parse_flags(smoke_settings(defaults), argv)
        if config.resume:
            raise UserError(f"--smoke trains anew and leaves no trace; leave out --resume {config.resume}")
    check_values(config)
    return config


def _parse_flags(defaults: C, argv: list[str]) -> C:
    config: C = tyro.cli(type(defaults), args=argv, default=defaults, use_underscores=True)
    return config


def _present_flag(argument: str, defaults: Any) -> str:
    """The flag under its present name, if it is given by a former one."""
    flag, equals, value = argument.partition("=")
    for name, extras in _annotations(defaults).items():
        for former in (extra.name for extra in extras if isinstance(extra, FormerName)):
            for prefix in ("--", "--no_"):
                if flag == f"{prefix}{former}":
                    print(f"{flag} is now called {prefix}{name}")
                    return f"{prefix}{name}{equals}{value}"
    return argument


def smoke_settings(config: C) -> C:
    """The settings of --smoke, one epoch of a small run, as SMOKE in config.py says; flags given with it win.

    Raises:
        UserError: there is no SMOKE, or it names a setting that does not exist.
    """
    if not hasattr(config, "SMOKE"):
        raise UserError("Config in config.py has no SMOKE, a dict of the settings of a small run: --smoke needs it")
    small = {**config.SMOKE, "epochs": 1, "resume": "", "log_per_step": 1, "warm_up_epochs": 0.25, "pictures": "none"}
    if unknown := sorted(small.keys() - {field.name for field in fields(config)}):
        raise UserError(f"SMOKE in config.py has {unknown[0]!r}, which is no setting; take it out")
    changed: C = replace(config, **small)
    return changed


def load(defaults: C, path: Path) -> C:
    """The settings in a run's config.json.

    A setting that is not there, since it is newer than the run, is what FORMER_VALUES of Config says, else its default.

    Raises:
        UserError: the file cannot be read, or holds no settings of this project.
    """
    try:
        saved = dict(json.loads(path.read_text("utf-8")))
        task_type, _ = saved.pop("task_type"), saved.pop("job", "")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the config.json of a run") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"{path} does not hold the settings of a run ({error!r}); give another, or start anew"
        ) from error
    if task_type != defaults.task_type:
        raise UserError(f"{path} is of a run of the task {task_type!r} and this is {defaults.task_type!r}")
    hints, saved = get_type_hints(type(defaults)), _present_names(saved, defaults)
    former = getattr(defaults, "FORMER_VALUES", {})
    for name in _annotations(defaults):
        if name not in saved:
            saved[name] = former.get(name, getattr(defaults, name))
            print(f"{path} has no {name}: it is {saved[name]!r}")
        if isinstance(saved[name], list) and _may_be_tuple(hints[name]):
            saved[name] = tuple(saved[name])  # which JSON does not have
        value = saved[name]
        if not _has_type(value, hints[name]):
            raise UserError(f"{path}: {name} is {value!r} and must be {_words(hints[name])}; correct it, or start anew")
    if unknown := sorted(saved.keys() - hints.keys()):
        raise UserError(f"{path} has settings that this project does not have: {', '.join(unknown)}; start a new run")
    config: C = replace(defaults, **saved)
    try:
        check_values(config)
    except UserError as error:
        raise UserError(f"{path}: {error}; correct it, or start anew") from error
    return config


def _present_names(saved: dict[str, Any], defaults: Any) -> dict[str, Any]:
    """Saved settings under their present names."""
    for name, extras in _annotations(defaults).items():
        for former in (extra.name for extra in extras if isinstance(extra, FormerName)):
            if former in saved:
                saved[name] = saved.pop(former)
    return saved


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of the type of its setting."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in args)
    if origin in (Union, UnionType):
        return any(_has_type(value, arg) for arg in args)
    if origin in (tuple, list):
        return isinstance(value, origin) and all(_has_type(part, args[0]) for part in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is hint


def _may_be_tuple(hint: Any) -> bool:
    """Whether a setting is a tuple, or one of several types of which one is a tuple."""
    return any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))


def _words(hint: Any) -> str:
    """The type of a setting in words."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return f"a tuple of {get_args(hint)[0].__name__}s"
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    return {type(None): "None", bool: "True or False", int: "a whole number", float: "a number", str: "a text"}.get(
        hint, str(hint)
    )


def resumed(defaults: C, argv: list[str], run_folder: Path) -> C:
    """The settings of the run in that folder, with the flags in `argv` applied.

    Raises:
        UserError: no settings there that can be read, or a flag that would make it another run.
    """
    before = load(defaults, run_folder / "config.json")
    config = parse(before, argv)
    check_same_run(asdict(before), config, run_folder)
    return config


def of_run(config: Any) -> dict[str, Any]:
    """The settings that make a run what it is: those that a resumed run may not change; none if it is no dataclass."""
    annotations = _annotations(config) if is_dataclass(config) else {}
    fixed = [name for name, extras in annotations.items() if not any(isinstance(e, _Changeable) for e in extras)]
    return {name: getattr(config, name) for name in fixed}


def check_same_run(before: Mapping[str, Any], config: Any, source: Path | str) -> None:
    """Raises a UserError for a setting that differs from the one before, though a resumed run may not change it."""
    for name, new in of_run(config).items():
        if before.get(name, new) != new:
            raise UserError(
                f"--{name} {new} differs from {before[name]}, with which {source} was trained; "
                "leave it out or start a new run"
            )


def of_checkpoint(defaults: C, saved: Mapping[str, Any]) -> C:
    """The settings of the run that wrote a checkpoint, for prediction; what it does not have is as in `defaults`."""
    saved = _present_names(dict(saved), defaults)
    config: C = replace(defaults, **{name: saved[name] for name in _annotations(defaults) if name in saved})
    return config


# ---- from settings to files and words ----


def save(config: Any, run_folder: Path) -> None:
    """Writes the settings of a run into its folder, as config.json."""
    with atomic_write(run_folder / "config.json") as file:
        job = os.environ.get("TORCHELASTIC_RUN_ID", "")  # torchrun's name for it, by which a restart finds its run
        settings = {"task_type": config.task_type, "job": job, **asdict(config)}
        file.write(f"{json.dumps(settings, indent=2)}\n".encode())


def describe(config: Any) -> str:
    """All settings, in lines of 79 characters."""
    settings = "  ".join(f"{name}={value}" for name, value in asdict(config).items())
    return textwrap.fill(settings, 79, break_long_words=False, break_on_hyphens=False)
