"""Networks for tables: embeddings and votes are those of the papers, and no training row votes on itself."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import Render, modules_of
from engine import UserError
from number_embeddings import BINS, AsTheyAre, Names, Periodic, PiecewiseLinear, RobustScale, quantiles
from table_networks import (
    MOST_EMBEDDED,
    NumberedRows,
    RetrievalInputs,
    SharedLayer,
    Vote,
    build_stages,
    choose_epochs,
    count_members,
    describe_rows,
    remembered_rows,
)
from torch import nn

from engine.data.splits import Split  # isort: skip


@pytest.fixture(scope="module")
def own(render_into: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The modules of a project of regression."""
    with modules_of(render_into(tmp_path_factory.mktemp("networks"), task_type="regression")) as modules:
        yield modules


def rows(count: int, features: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, the last of which is 0 or 1, and targets."""
    torch.manual_seed(0)
    x = torch.randn(count, features)
    x[:, -1] = (x[:, -1] > 0).float()
    return x, x[:, 0].sin() + x[:, -1]


# ---- numbers ----


def test_quantiles_are_torchs() -> None:
    x, parts = torch.randn(37, 3), [0.0, 0.1, 0.5, 0.77, 1.0]
    torch.testing.assert_close(quantiles(x, parts), x.quantile(torch.tensor(parts), dim=0))


def test_numbers_are_scaled_by_their_quartiles_and_never_far_out() -> None:
    x = torch.randn(20_000, 1) * 7 + 3
    scale = RobustScale(1)
    scale.describe(x)
    z = (x - 3) / 7
    torch.testing.assert_close(scale(x), z / (1 + (z / 3).square()).sqrt(), atol=0.1, rtol=0)
    assert scale(torch.tensor([[1e30], [-1e30]])).abs().max() <= 3
    constant = torch.full((9, 1), 5.0)
    scale.describe(constant)
    assert scale(constant).abs().max() == 0


def test_a_piecewise_linear_embedding_is_linear_between_quantiles() -> None:
    x = torch.randn(1000, 2)
    x[:, 1] = x[:, 1].round()  # some quantiles are equal
    embedding = PiecewiseLinear(2)
    embedding.describe(x, x[:, 0])
    edges = embedding.edges
    for number in range(2):
        for value in (-9.0, -0.3, 0.0, 0.4, 9.0):
            parts = [
                min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0
                for low, high in zip(edges[number, :-1].tolist(), edges[number, 1:].tolist(), strict=True)
            ]
            assert len(parts) == BINS
            wanted = (torch.tensor(parts) @ embedding.weight[number] + embedding.bias[number]).relu()
            given = torch.zeros(1, 2)
            given[0, number] = value
            found = embedding(given)[0]
            torch.testing.assert_close(found[:2], given[0])
            found = found[2:].view(2, -1)[number]
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("classes", [False, True])
def test_numbers_that_are_names_are_told_from_others_by_jumps_of_the_target(classes: bool) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 40, (1000, 3)).float()
    effects = torch.randn(40)
    x[:, 2] = torch.randn(1000)  # too many values
    y = effects[x[:, 0].long()] + (x[:, 1] / 8).sin() + torch.randn(1000)
    names = Names(3, 2)
    names.describe(x, (y > 0).long() if classes else y)
    assert names.values.isfinite().sum(1).tolist() == [40, 0, 0] and names.numbers[0] == 0
    with torch.no_grad():
        names.terms[0, 7] = torch.tensor([5.0, 6.0])
    found = names(torch.tensor([[7.0, 7.0, 7.0], [7.5, 0.0, 0.0]]))
    assert found[0].tolist() == [[5, 6], [0, 0], [0, 0]] and not found[1].any()


def test_members_differ_by_what_they_scale_alone() -> None:
    layer = SharedLayer(4, 3, members=2, first=True)
    x = torch.randn(5, 1, 4)
    found = layer(x)
    for member in range(2):
        wanted = layer.linear(x[:, 0] * layer.inputs[member]) * layer.outputs[member] + layer.bias[member]
        torch.testing.assert_close(found[:, member], wanted)


def test_the_last_layer_can_use_what_went_past_hidden_layers_and_does_not_at_first() -> None:
    x, y = rows(50)
    inputs, hidden, outputs = build_stages("mlp", 5, [0, 1], 50, 16, 0.0, 1)
    describe_rows([inputs], Split(x, y, torch.arange(50)))
    weight = next(outputs.parameters())  # of 16 hidden units, 2 numbers, 8 features of each, and 3 others
    assert weight.shape == (1, 16 + 2 + 2 * 8 + 3, 1) and not weight[:, 16:].any()
    with torch.no_grad():
        weight.zero_()
        weight[0, -1] = 3.0
        found = outputs.eval()(hidden(inputs(x)))[:, 0]
    torch.testing.assert_close(found, 3 * x[:, -1])


# ---- the vote ----


@pytest.mark.parametrize("training", [True, False])
def test_votes_are_the_softmax_of_distances_and_no_row_votes_on_itself(training: bool) -> None:
    x, y = rows(40)
    inputs, vote = RetrievalInputs(5, [0, 1, 2, 3], 40), Vote(40, 1)
    for stage in (inputs, vote):
        stage.describe(x, y)
        stage.train(training)
    compared = inputs((x[:6], torch.arange(6)))
    found = vote(compared)[:, 0, 0]
    for row in range(6):
        others = [
            (float(compared.x[6 + place].sub(compared.x[row]).norm()), float(y[number]))
            for place, number in enumerate(compared.drawn.tolist())
            if not training or number != row
        ]
        weights = torch.tensor([-distance for distance, _ in others]).softmax(0)
        assert float(found[row]) == pytest.approx(
            float(weights @ torch.tensor([target for _, target in others])), abs=1e-3
        )
    assert len(compared.drawn) == (20 if training else 40)


def test_of_many_rows_some_are_remembered_from_all_over_the_table() -> None:
    chosen = remembered_rows(50_001)
    assert len(chosen) == len(chosen.unique()) == 20_000 and (chosen[0], chosen[-1]) == (0, 50_000)
    _, numbers = NumberedRows(torch.zeros(50_001, 1), chosen)[torch.tensor([0, 1, 50_000])]
    assert (numbers[0], numbers[2]) == (0, 19_999)
    assert remembered_rows(3).tolist() == [0, 1, 2]


# ---- networks ----


@pytest.mark.parametrize("name", ["both", "nca", "tabm", "mlp"])
@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("numbers", [[0, 1, 2, 3], []])
def test_a_network_predicts_for_each_member_in_training_and_their_mean_else(
    name: str, outputs: int, numbers: list[int]
) -> None:
    x, y = rows(30)
    target = y if outputs == 1 else (y > 0).long() + (y > 1).long()
    network = nn.Sequential(*build_stages(name, 5, numbers, 30, 16, 0.0, outputs))
    describe_rows([network], Split(x, target, torch.arange(30)))
    members = {"both": 9, "nca": 1, "tabm": 8, "mlp": 1}[name]
    trained = network.train()((x[:7], torch.arange(7)))
    assert trained.shape == (7 * members, outputs) and count_members([network]) == members
    apart = network((x[:1], torch.arange(1)))  # members of a row are one after another
    assert apart.shape == (members, outputs)
    trained.square().mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    with torch.no_grad():
        found = network.eval()(x[:7])
    assert found.shape == (7, outputs) and bool(found.isfinite().all())
    if outputs > 1:
        torch.testing.assert_close(found.exp().sum(1), torch.ones(7))


def test_very_many_numbers_are_not_embedded_and_a_line_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    count = MOST_EMBEDDED + 1
    x, y = rows(20, count)
    network = nn.Sequential(*build_stages("both", count, list(range(count)), 20, 8, 0.0, 1))
    describe_rows([network], Split(x, y, torch.arange(20)))
    assert capsys.readouterr().out == "2,049 numbers in 20 rows are many: they are not embedded\n"
    assert sum(weight.numel() for weight in network.parameters()) < 200 * count
    assert bool(network.eval()(x[:3]).isfinite().all())


def test_numbers_of_very_many_remembered_rows_are_embedded_for_perceptrons_alone() -> None:
    inputs, *_ = build_stages("both", 250, list(range(250)), 20_000, 8, 0.0, 1)
    kinds = [type(module) for module in inputs.modules()]
    assert PiecewiseLinear in kinds and AsTheyAre in kinds and Periodic not in kinds


# ---- the target ----


@pytest.mark.parametrize(("transform", "is_log"), [("auto", True), ("log", True), ("none", False)])
def test_a_skewed_target_is_predicted_by_its_logarithm_and_scored_in_its_unit(
    transform: str, is_log: bool, own: Any
) -> None:
    logs = torch.randn(500, dtype=torch.float64)
    values = logs.exp()
    found = own.data.describe_target(logs.unsqueeze(1).float(), values, {"train": values}, transform, "price")
    assert ("target_log" in found) is is_log
    scale = own.metrics.TargetScale(found)
    torch.testing.assert_close(scale.in_unit(scale.standardised(values)), values, rtol=1e-5, atol=1e-5)
    score = own.metrics.R2(scale)
    score.update(scale.standardised(values * 1.1), scale.standardised(values))
    wanted = 1 - (0.1 * values).square().sum() / (values - values.mean()).square().sum()
    assert float(score.compute()) == pytest.approx(float(wanted), abs=1e-5)


def test_a_target_that_is_not_skewed_or_not_positive_stays_as_it_is(own: Any) -> None:
    for values in (torch.rand(500, dtype=torch.float64) + 1, torch.randn(500, dtype=torch.float64).exp() - 1):
        x = values.unsqueeze(1).float()
        assert "target_log" not in own.data.describe_target(x, values, {"train": values}, "auto", "price")
    with pytest.raises(UserError, match="--target_transform log: 'price' is 0 in a row; it must be above 0"):
        own.data.describe_target(torch.ones(3, 1), torch.ones(3), {"train": torch.tensor([1.0, 0.0])}, "log", "price")


def test_a_skewed_target_that_is_mostly_noise_stays_as_it_is(own: Any) -> None:
    x, noise = torch.randn(2, 600, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for part, is_log in ((0.3, True), (1.0, False)):
        values = (x + part * noise).exp()
        found = own.data.describe_target(x.unsqueeze(1).float(), values, {"train": values}, "auto", "price")
        assert ("target_log" in found) is is_log
        assert own.data.unexplained(x.unsqueeze(1).float(), values.log()) == pytest.approx(part**2, rel=0.2)


@pytest.mark.parametrize(("rows", "epochs"), [(10, 60), (20_000, 60), (40_000, 30), (10**6, 10)])
def test_very_many_rows_are_seen_in_fewer_epochs(rows: int, epochs: int) -> None:
    assert choose_epochs(rows) == epochs
