from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from clray.distributed import Distributed
from clray.models.classifier import Classifier
from clray.models.curvature import Diagonal
from clray.models.curvature_fit import fit_curvature
from clray.models.linearised_classifier import HeadMode, LinearisedClassifier, matrix_layers
from clray.models.matrix_layers import from_matrix
from clray.models.squared_loss import output_noise, squared_losses

pytestmark = pytest.mark.usefixtures("float64")


def build(mode: HeadMode) -> tuple[LinearisedClassifier, Tensor]:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )
    x = torch.randn(8, 2, 5, 5)
    return LinearisedClassifier(Classifier(encoder.append(nn.Tanh()), nn.Linear(4, 3)), mode, x), x


Weights = dict[str, Tensor]


def learned(model: nn.Module) -> Weights:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def random(weights: Weights) -> Weights:
    return {name: torch.randn(w.shape) for name, w in weights.items()}


def at(model: nn.Module, weights: Weights, x: Tensor) -> Tensor:
    found: Tensor = functional_call(model, weights, (x,))
    return found


def affine_error(model: nn.Module, x: Tensor, among: str) -> float:
    """How far the output between two settings of some weights is from a straight line."""
    start = learned(model)
    one, other = (
        {name: new[name] if name.startswith(among) else start[name] for name in start}
        for new in (random(start), random(start))
    )
    between = {name: 0.3 * one[name] + 0.7 * other[name] for name in start}
    straight = 0.3 * at(model, one, x) + 0.7 * at(model, other, x)
    return float((at(model, between, x) - straight).abs().max())


def test_a_linearised_head_is_affine_in_all_and_another_one_only_in_each_of_two() -> None:
    model, x = build("linearised")
    assert affine_error(model, x, "") <= 1e-10
    model, x = build("bilinear")
    assert affine_error(model, x, "linear.") <= 1e-10
    assert affine_error(model, x, "head.") <= 1e-10
    assert affine_error(model, x, "") > 0.1


def test_a_linearised_head_of_zeros_is_refused_since_nothing_before_it_would_learn() -> None:
    classifier, x = Classifier(nn.Linear(2, 3), nn.Linear(3, 2)), torch.zeros(2, 2)
    nn.init.zeros_(classifier.head.weight)
    with pytest.raises(ValueError, match="head of zeros"):
        LinearisedClassifier(classifier, "linearised", x)
    assert LinearisedClassifier(classifier, "bilinear", x).head is classifier.head


@pytest.mark.parametrize("mode", ["linearised", "bilinear"])
def test_layers_learn_and_normalisation_does_not(mode: HeadMode) -> None:
    model, _ = build(mode)
    head = {"head.weight", "head.bias"}
    whole = mode == "linearised"
    assert model.layers == (("encoder.0", "encoder.4", "head") if whole else ("0", "4"))
    assert len(learned(model)) == 6
    assert whole or head <= learned(model).keys()
    assert not any(m.training for m in model.train().linear.network.modules())
    weight, bias = model.steps_of(model.layers[0])
    assert (weight.shape, bias.shape) == ((3, 2, 3, 3), (3,))


def test_a_network_that_is_one_layer_has_steps() -> None:
    classifier = Classifier(nn.Linear(2, 3), nn.Linear(3, 2))
    model = LinearisedClassifier(classifier, "bilinear", torch.zeros(2, 2))
    assert model.layers == ("",)
    assert [p.shape for p in model.steps_of("")] == [(3, 2), (3,)]


class Odd(nn.Module):
    """Layers used twice, tied, frozen, unused, and on other rows than the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.twice, self.unused = (nn.Linear(4, 4) for _ in range(3))
        self.tied, self.also_tied = nn.Linear(4, 4), nn.Linear(4, 4)
        self.also_tied.weight = self.tied.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.mixed, self.table = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.twice(self.plain(x)))
        x = self.frozen(self.also_tied(self.tied(x)))
        x = self.mixed(x.view(-1, 2, 4)).view_as(x)
        found: Tensor = x + self.table(x.new_ones(1, 4))
        return found


def test_only_layers_that_meet_each_example_once_learn() -> None:
    assert list(matrix_layers(Odd(), torch.randn(2, 4))) == ["plain"]


@pytest.mark.parametrize("mode", ["linearised", "bilinear"])
def test_the_losss_curvature_is_that_of_the_network_anywhere_and_for_any_labels(
    mode: HeadMode,
) -> None:
    model, x = build(mode)
    start = {name: w for name, w in learned(model).items() if name.startswith("linear.")}
    competing = torch.ones(len(x), 3, dtype=torch.bool)

    def flat(weights: Weights) -> Tensor:
        return torch.cat([w.flatten() for w in weights.values()])

    def unflat(vector: Tensor) -> Weights:
        pieces = torch.split(vector, [w.numel() for w in start.values()])
        return {n: p.view_as(w) for (n, w), p in zip(start.items(), pieces, strict=True)}

    rows = torch.cat([d.flatten(2) for d in jacrev(lambda w: at(model, w, x))(start).values()], 2)
    expected = torch.einsum("bdi,bdj->ij", rows, rows) / len(x)
    for weights in (start, random(start)):
        y = torch.randint(3, (len(x),))
        found = hessian(
            lambda v, y=y: squared_losses(at(model, unflat(v), x), y, competing, 15.0).mean()
        )(flat(weights))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    noise = output_noise("exact", len(x), slice(0, len(x)), competing, torch.Generator())
    if model.head is not None:
        noise = [one @ model.head.weight.detach() for one in noise]
    network = model.linear.network
    layers = {name: network.get_submodule(name) for name in model.layers}
    blocks = fit_curvature(
        "diag", network, layers, lambda: iter([(x, lambda out: noise)]), len(x), Distributed()
    )
    diagonal = unflat(expected.diagonal())
    names = {id(p): name for name, p in model.named_parameters()}
    for name, block in blocks.items():
        assert isinstance(block, Diagonal)
        weight, bias = model.steps_of(name)
        for step, values in zip(
            (weight, bias), from_matrix(block.values, weight, bias), strict=True
        ):
            torch.testing.assert_close(values, diagonal[names[id(step)]], rtol=0, atol=1e-10)
