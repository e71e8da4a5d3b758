"""Grad-CAM: the map is that of the paper, at the right place, for any network, and nothing of the network changes."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import Render, modules_of
from engine import UserError
from engine.network import Network, eval_mode
from grad_cam import grad_cam, last_feature_map, layout
from torch import Tensor, nn
from torchvision.models import get_model


@pytest.fixture(scope="module")
def own(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project."""
    with modules_of(render_into(tmp_path_factory.mktemp("images"), task_type="image_classification")) as modules:
        yield modules


def timm_model(name: str, **arguments: Any) -> Any:
    """One of timm's networks with random weights."""
    return pytest.importorskip("timm").create_model(name, **arguments)


def small(own: Any, size: int, flip: bool) -> nn.Module:
    """The project's own network for two classes, in eval mode."""
    config = own.config.Config(width=8, flip=flip)
    pixels = torch.randint(256, (20, 3, size, size), dtype=torch.uint8)
    split = own.data.Split(pixels, torch.zeros(20), torch.arange(20))
    meta = {"classes": ["blue", "red"], **own.backbones.choose_backbone(replace(config, backbone="small"), size)}
    meta |= own.backbones.image_statistics(split)
    return Network(parts := own.model.build_model_list(meta, 3), nn.Sequential(*parts)).eval()


# ---- which map ----


def test_of_a_resnet_the_map_is_the_last_stage() -> None:
    network = get_model("resnet18", num_classes=3).eval()
    assert map_of(network, 64) == "layer4"


def test_of_a_resnet_in_three_parts_the_map_is_the_last_stage(own: Any) -> None:
    *stages, features = own.backbones.from_torchvision("resnet18", "none")
    stem, body = (nn.Sequential(OrderedDict(stage)) for stage in stages)
    network = nn.Sequential(stem, body, nn.Linear(features, 3)).eval()
    assert map_of(network, 64) == "1.layer4"


def test_of_an_efficientnet_the_map_is_what_is_pooled() -> None:
    assert map_of(timm_model("tf_efficientnet_lite0", num_classes=3), 64) == "bn2"


def test_of_a_network_that_reads_a_class_token_the_map_is_the_input_of_the_last_block() -> None:
    """Behind the last block the logits depend on no token but that."""
    assert map_of(timm_model("vit_tiny_patch16_224", num_classes=3), 224) == "blocks.10"


def test_of_a_network_that_reads_the_mean_of_its_tokens_the_map_is_its_last_output() -> None:
    network = timm_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=3, global_pool="avg")
    assert map_of(network, 64) == "norm"


def test_of_the_projects_own_network_the_map_is_what_is_pooled(own: Any) -> None:
    network = small(own, 32, flip=True)
    found = last_feature_map(network, torch.zeros(1, 3, 32, 32).byte(), torch.tensor([0]))
    layers = list(network.run[1])  # type: ignore[index, arg-type]
    assert isinstance(layers[layers.index(found.module) + 1], nn.AdaptiveMaxPool2d)


def map_of(network: nn.Module, size: int) -> str:
    """The name of the module whose output is the feature map."""
    network.requires_grad_(False).eval()
    found = last_feature_map(network, torch.rand(1, 3, size, size), torch.tensor([1]))
    return {module: name for name, module in network.named_modules()}[found.module]


@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [
        ((512, 7, 7), (224, 224), (7, 7)),
        ((512, 7, 10), (224, 320), (7, 10)),
        ((7, 7, 768), (224, 224), (7, 7)),  # channels last
        ((196, 192), (224, 224), (14, 14)),
        ((197, 192), (224, 224), (14, 14)),  # with a class token
        ((201, 192), (224, 224), (14, 14)),  # with four registers, too
        ((393, 192), (224, 448), (14, 28)),
        ((512, 1, 1), (224, 224), None),  # pooled
        ((3, 197, 64), (224, 224), None),  # queries of three heads
        ((190, 192), (224, 224), None),
        ((192,), (224, 224), None),
    ],
)
def test_a_feature_map_is_known_by_its_shape(
    shape: tuple[int, ...], size: tuple[int, int], grid: tuple[int, int] | None
) -> None:
    view = layout(shape, size)
    assert (view and tuple(view(torch.zeros(2, *shape)).shape[2:])) == grid


def test_the_last_tokens_are_those_of_the_image_row_by_row() -> None:
    view = layout((10, 5), (32, 32))
    tokens = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 5)
    assert view and view(tokens)[0, 3].tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_a_network_without_a_feature_map_is_refused() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(UserError, match="no layer of the network has a feature map .* leave --explain out"):
        grad_cam(network, torch.rand(2, 3, 16, 16), torch.tensor([0, 1]))


# ---- its values ----


def check_class_activation_map(network: nn.Module, features: Tensor, weight: Tensor, x: Tensor) -> None:
    """Behind a mean over places and a linear layer Grad-CAM is CAM (Zhou et al. 2016) without what is below 0."""
    classes = torch.tensor([2, 0])
    cam = torch.einsum("bc,bchw->bhw", weight[classes], features).relu().unsqueeze(1)
    expected = F.interpolate(cam, x.shape[2:], mode="bilinear").squeeze(1)
    found = grad_cam(network, x, classes)
    assert found.amax((1, 2)).tolist() == [1, 1] and found.min() >= 0
    torch.testing.assert_close(found, expected / expected.amax((1, 2), keepdim=True), rtol=1e-4, atol=1e-5)


def test_of_a_resnet_it_is_the_class_activation_map() -> None:
    network, x = get_model("resnet18", num_classes=3).eval(), torch.randn(2, 3, 64, 96)
    nn.init.normal_(network.fc.weight, 0.02, 0.1)
    features = nn.Sequential(*list(network.children())[:-2])(x)
    check_class_activation_map(network, features, network.fc.weight, x)


def test_of_an_efficientnet_it_is_the_class_activation_map() -> None:
    network, x = timm_model("tf_efficientnet_lite0", num_classes=3).eval(), torch.randn(2, 3, 64, 64)
    nn.init.normal_(network.classifier.weight, 0.02, 0.1)
    check_class_activation_map(network, network.forward_features(x), network.classifier.weight, x)


def corners(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Grey noise with a square in the upper left corner, blue (class 0) or red (1), and one in both below right."""
    x, classes = 128 + 20 * torch.randn(count, 3, size, size), torch.arange(count) % 2
    quarter = size // 4
    colors = torch.tensor([[0.0, 0, 255], [255, 0, 0]])
    x[:, :, :quarter, :quarter] = colors[classes][:, :, None, None]
    x[:, :, -quarter:, -quarter:] = torch.tensor([0.0, 255, 0])[:, None, None]
    return x.clamp(0, 255).byte(), classes


def trained(network: nn.Module, size: int, updates: int) -> nn.Module:
    """The network after some updates on such images."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    network.train()
    for _ in range(updates):
        x, classes = corners(16, size)
        optimizer.zero_grad()
        F.cross_entropy(network(x), classes).backward()
        optimizer.step()
    return network.eval()


def part_in_the_corner(network: nn.Module, size: int) -> float:
    """How much of the map is in the upper left quarter of images, of which a corner shows the class."""
    x, classes = corners(16, size)
    assert (network(x).argmax(1) == classes).all()
    heat = grad_cam(network, x, classes)
    return float(heat[:, : size // 2, : size // 2].sum() / heat.sum())


@pytest.mark.parametrize("flip", [False, True])
def test_a_network_that_was_trained_on_a_corner_looks_there(flip: bool, own: Any) -> None:
    torch.manual_seed(0)
    assert part_in_the_corner(trained(small(own, 64, flip), 64, updates=25), 64) > 0.6


class Tokens(nn.Module):
    """Patches as tokens of how red and how blue they are, and a class token that takes their mean in its last block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 2, 8, 8)
        self.patches.weight.data = torch.tensor([[-1.0, -1, 2], [2, -1, -1]])[:, :, None, None].expand(2, 3, 8, 8) / 64
        self.embedded, self.block, self.head = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x.float()).relu().flatten(2).mT
        tokens = self.embedded(torch.cat([torch.zeros_like(patches[:, :1]), patches], 1))
        tokens = self.block(torch.cat([tokens[:, :1] + tokens[:, 1:].mean(1, keepdim=True), tokens[:, 1:]], 1))
        return self.head(tokens[:, 0])  # type: ignore[no-any-return]


def test_a_network_that_reads_a_class_token_looks_where_the_colour_is() -> None:
    network, (x, classes) = Tokens(), corners(6, 64)
    assert last_feature_map(network, x[:1], classes[:1]).module is network.embedded
    heat = grad_cam(network, x, classes)
    inside = heat[:, :20, :20].sum((1, 2)) / heat.sum((1, 2))
    assert inside.min() > 0.8


def test_each_class_has_a_map_of_its_own() -> None:
    network, (x, classes) = Tokens(), corners(2, 64)
    both = x[0].maximum(x[1].flip(-1))[None].expand(2, -1, -1, -1)  # blue at the left, red at the right
    columns = grad_cam(network, both, classes).sum(1).argmax(1)
    assert columns[0] < 16 and columns[1] >= 48


# ---- flips, frozen networks, odd layers ----


def test_the_map_of_a_flipped_image_is_flipped(own: Any) -> None:
    network, (x, classes) = small(own, 64, flip=True), corners(4, 64)
    torch.testing.assert_close(
        grad_cam(network, x.flip(-1), classes).flip(-1), grad_cam(network, x, classes), rtol=1e-3, atol=1e-4
    )


def test_a_frozen_network_has_the_same_map_and_no_network_changes(own: Any) -> None:
    network, (x, classes) = small(own, 64, flip=True), corners(4, 64)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        expected = grad_cam(network, x, classes)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert torch.equal(grad_cam(network.requires_grad_(False), x, classes), expected)
    assert torch.is_grad_enabled() and not expected.requires_grad


def test_a_layer_that_is_used_again_and_works_in_place_changes_nothing() -> None:
    class Shared(nn.Module):
        def __init__(self, activations: list[nn.Module]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 4), nn.Linear(4, 2)])
            self.activations = nn.ModuleList(activations)

        def forward(self, x: Tensor) -> Tensor:
            first, second, third, last = self.layers
            one, two, three = (self.activations[number % len(self.activations)] for number in range(3))
            return last(three(third(two(second(one(first(x)))).mean((2, 3)))))  # type: ignore[no-any-return]

    x, classes = torch.randn(3, 3, 16, 16), torch.tensor([0, 1, 1])
    with eval_mode([shared := Shared([nn.ReLU(inplace=True)])]):
        assert last_feature_map(shared, x[:1], classes[:1]).call == 1
    expected = grad_cam(Shared([nn.ReLU(), nn.ReLU(), nn.ReLU()]), x, classes)
    torch.testing.assert_close(grad_cam(shared, x, classes), expected)
