"""Where a network looks in an image for a class: Grad-CAM (Selvaraju et al. 2017), and pictures of it."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node

from engine.monitor.figures import caption, new_figure
from engine.network import Network, eval_mode
from engine.runtime.devices import to_device
from engine.runtime.errors import UserError
from engine.trainer import Trainer

MOST_PREFIX_TOKENS = 5  # such as a class token and four registers
MOST_STRETCHED = 1.5  # largest factor between height / width of a feature map and of its image


class FeatureMap(NamedTuple):
    """Where in a forward pass a feature map is made."""

    module: nn.Module  # whose output it is
    call: int  # how often the module is called before: a layer may be used several times
    view: Callable[[Tensor], Tensor]  # from its output, or the gradient of that, to (N, C, h, w)


def grad_cam(network: nn.Module, x: Tensor, classes: Tensor) -> Tensor:
    """How much each place of each image speaks for a class, from 0 to 1: shape (B, H, W).

    The sum over the channels of the last feature map, each weighted by the mean gradient of the class's logit; what
    speaks against the class is 0. Of a network that sees each image and its flip it is the mean of both, flipped back.
    Parameters may be frozen; modes, buffers and gradients stay as they were.

    Args:
        network: from images to logits (B, C).
        x: images (B, 3, H, W), as the network takes them.
        classes: a class index for each image, shape (B,).

    Raises:
        UserError: a network without a feature map.
    """
    with torch.inference_mode(False), eval_mode([network]):
        classes = classes.to(x.device, copy=True)  # what inference mode has made is of no use for gradients
        features, gradients = with_gradients(last_feature_map(network, x[:1], classes[:1]), network, x, classes)
    heat = (gradients.mean((2, 3), keepdim=True) * features).sum(1)
    if len(heat) == 2 * len(x):  # the second half is of the flips
        upright, flipped = heat.chunk(2)
        heat = (upright + flipped.flip(-1)) / 2
    heat = F.interpolate(heat.relu().unsqueeze(1), x.shape[2:], mode="bilinear").squeeze(1)
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(heat.dtype).tiny)


# ---- the feature map ----


def last_feature_map(network: nn.Module, x: Tensor, classes: Tensor) -> FeatureMap:
    """The last feature map that all of the image passes through and on which the class's logit depends.

    So it is none inside a block with a shortcut. Of a network that reads a class token it is the input of the last
    block: behind that the other tokens do not count.

    Args:
        network: in eval mode.
        x: one image (1, 3, H, W).
        classes: its class index, shape (1,).

    Raises:
        UserError: there is none.
    """
    made: list[tuple[FeatureMap, Tensor, Node]] = []  # with the output, and its node of the autograd graph
    calls: dict[nn.Module, int] = {}

    def record(module: nn.Module, _: Any, output: Any) -> None:
        calls[module] = calls.get(module, -1) + 1
        with_graph = torch.is_tensor(output) and output.grad_fn is not None
        of_image = with_graph and len(output) in (1, 2)  # or of the image and its flip
        if of_image and (view := layout(output.shape[1:], x.shape[2:])):
            # The node as it is now: a layer that works in place gives its input another one.
            made.append((FeatureMap(module, calls[module], view), output, output.grad_fn))

    hooks = [module.register_forward_hook(record) for module in network.modules()]
    image = x.to(torch.float, copy=True).requires_grad_()  # so that there are gradients in frozen networks too
    try:
        with torch.enable_grad():
            logits = network(image)
    finally:
        for hook in hooks:
            hook.remove()
    candidates: list[FeatureMap] = []
    for feature_map, output, node in reversed(made):
        if logits.requires_grad and all_pass_through(node, logits.grad_fn, image):
            chosen = one_hot(classes, logits)
            [gradient] = torch.autograd.grad(logits, output, chosen, retain_graph=True, allow_unused=True)
            if gradient is not None:
                candidates.append(feature_map)
                if feature_map.view(gradient).any():
                    return feature_map
    if not candidates:
        raise UserError("no layer of the network has a feature map (B, C, H, W) as its output; leave --explain out")
    return candidates[0]  # no gradient anywhere, as where the last weights are 0


def all_pass_through(node: Node, end: Node, start: Tensor) -> bool:
    """Whether in the autograd graph all ways from a node `end` back to a leaf `start` pass through `node`."""
    to_visit, seen = [end], {node}
    while to_visit:
        here = to_visit.pop()
        if here not in seen:
            seen.add(here)
            if getattr(here, "variable", None) is start:
                return False
            to_visit += [before for before, _ in here.next_functions if before is not None]
    return True


def layout(shape: Sequence[int], size: Sequence[int]) -> Callable[[Tensor], Tensor] | None:
    """What views an output of this shape, without the batch, as a feature map (N, C, h, w); None if it is none.

    It may be (C, h, w), (h, w, C), or (N, C): tokens, of which all but the first few form a grid like the image.

    Args:
        shape: of the output for one image.
        size: height and width of the image.
    """
    height, width = size
    if len(shape) == 3:
        for (h, w), view in ((shape[1:], as_it_is), (shape[:2], channels_first)):
            stretched = h * width / (w * height)
            if min(h, w) > 1 and 1 / MOST_STRETCHED < stretched < MOST_STRETCHED:
                return view
    if len(shape) == 2:
        for prefix in range(min(MOST_PREFIX_TOKENS, shape[0]) + 1):
            tokens = shape[0] - prefix
            h = round(math.sqrt(tokens * height / width))
            if h > 1 and tokens % h == 0 and abs(h * width / height - tokens // h) < 1:
                return partial(tokens_to_grid, prefix=prefix, height=h)
    return None


def as_it_is(output: Tensor) -> Tensor:
    """(N, C, h, w)."""
    return output


def channels_first(output: Tensor) -> Tensor:
    """From (N, h, w, C) to (N, C, h, w)."""
    return output.movedim(-1, 1)


def tokens_to_grid(output: Tensor, prefix: int, height: int) -> Tensor:
    """From tokens (N, prefix + h w, C) to (N, C, h, w), without the first ones."""
    grid: Tensor = output[:, prefix:].mT.unflatten(2, (height, -1))
    return grid


def with_gradients(at: FeatureMap, network: nn.Module, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """The feature map of images, and the gradients of the classes' logits by it: both (B, C, h, w), or (2 B, ...)."""
    leaves: list[Tensor] = []
    calls = count()

    def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        if next(calls) != at.call:
            return None
        torch.set_grad_enabled(True)  # only from here on: what comes before needs no memory for a backward pass
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()  # since the next layer may work in place

    hook = at.module.register_forward_hook(cut)
    try:
        with torch.no_grad():
            logits = network(x)
    finally:
        hook.remove()
    [gradients] = torch.autograd.grad(logits, leaves, one_hot(classes, logits))
    return at.view(leaves[0].detach()), at.view(gradients)


def one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    """Class indices (B,) as 0.0 and 1.0, of shape and type of the logits (B, C)."""
    return F.one_hot(classes, logits.shape[1]).to(logits.dtype)


# ---- looking ----


def draw_most_probable(task: Trainer, x: Tensor, probabilities: Tensor, names: Sequence[str]) -> Iterator[Any]:
    """A figure for each image: the image, and over it where the network looks for the most probable class.

    Args:
        task: with weights.
        x: images (B, 3, H, W), 0 to 255.
        probabilities: of the classes, shape (B, C).
        names: of the classes.

    Raises:
        UserError: a network without a feature map.
    """
    best = probabilities.max(1)
    heat = grad_cam(Network(task.model_list, task.forward), to_device(x, task.device), best.indices)
    titles = [f"{names[index]}  {p:.3f}" for index, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
    pixels = x.clamp(0, 255).byte().movedim(1, -1).cpu()
    for image, of_image, title in zip(pixels.numpy(), heat.cpu().numpy(), titles, strict=True):
        figure, axes = new_figure(2, width=6.4, height=3.5)
        figure.suptitle(caption(title))
        for axis in axes.flat:
            axis.axis("off")
            axis.imshow(image)
        axes[0, 1].imshow(of_image, cmap="jet", vmin=0, vmax=1, alpha=0.45)
        yield figure
