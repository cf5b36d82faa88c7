"""Layers of low rank, the network that is made of them, and what its directions are worth."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.errors import BadSpec
from clray.models.classifier import Classifier
from clray.models.low_rank import (
    Dense,
    Factored,
    LowRankConvolution,
    LowRankLayer,
    LowRankLinear,
    restored,
    stored,
)
from clray.models.low_rank_fit import Convolutions, fit_scales, residual
from clray.models.low_rank_form import Form
from clray.models.low_rank_learner import Choice, decayed, factorise, importances, penalty
from clray.models.low_rank_network import LowRankNetwork

ALL = Choice(share=1.0, cap=None)
KINDS: tuple[Convolutions, ...] = ("window-mean", "reshape")


@pytest.fixture(autouse=True)
def _in_double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def drawn_form(layer: LowRankLayer, rank: int) -> Factored:
    outputs, inputs = layer.weight.shape[:2]
    left, right = torch.randn(outputs, rank), torch.randn(rank, layer.width)
    return Factored(torch.randn(outputs), torch.randn(inputs), left, right, torch.randn(outputs))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("side", "stride", "padding", "dilation"),
    [(5, 1, 2, 1), (3, 2, 1, 1), (1, 2, 0, 1), (4, 1, 0, 1), (3, 1, 2, 2), (3, 2, 3, 1)],
)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_factored_equals_put_together_in_convolutions(
    kind: Convolutions, side: int, stride: int, padding: int, dilation: int, dimensions: int
) -> None:
    weight = nn.Parameter(torch.randn(7, 3, *(side,) * dimensions))
    strides, paddings, dilations = ((n,) * dimensions for n in (stride, padding, dilation))
    layer = LowRankConvolution(weight, None, strides, paddings, dilations, kind)
    x = torch.randn(2, 3, *(9,) * dimensions)
    for rank in (0, 1, 3):  # of 7 outputs, 3 are cheaper whole in ``reshape``
        layer.form = drawn_form(layer, rank)
        factored = layer(x)
        layer.form = layer.put_together(layer.form)
        assert (layer(x) - factored).abs().max() < 1e-12


def test_factored_equals_put_together_in_linear_layers() -> None:
    layer = LowRankLinear(nn.Parameter(torch.randn(7, 5)), None)
    x = torch.randn(4, 5)
    for rank in (0, 2, 5):
        layer.form = drawn_form(layer, rank)
        factored = layer(x)
        layer.form = layer.put_together(layer.form)
        assert (layer(x) - factored).abs().max() < 1e-12


def network(kind: Convolutions = "window-mean", side: int = 3) -> LowRankNetwork:
    """On [B, 2, 6, 6]: a convolution, a linear layer, two normalisations."""
    encoder = nn.Sequential(
        *(nn.Conv2d(2, 5, side, padding=side // 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(180, 9), nn.LayerNorm(9), nn.ReLU()),
    )
    return LowRankNetwork(Classifier(encoder, nn.Linear(9, 3)), kind)


def moved(net: LowRankNetwork) -> tuple[Tensor, Tensor]:
    """A free copy somewhere else: x, and its logits there."""
    free = net.working = net.free(net.drawn_head(3, 1))
    x = torch.randn(8, 2, 6, 6)
    for parameter in free.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    net.model.eval()
    with net.using(free), torch.no_grad():
        return x, net.model(x)


@pytest.mark.parametrize(("kind", "side"), [("window-mean", 1), ("reshape", 1), ("reshape", 3)])
def test_all_directions_make_the_free_network(kind: Convolutions, side: int) -> None:
    net = network(kind, side)
    x, logits = moved(net)
    assert net.working is not None
    form, ranks, shares = factorise(net, net.working, torch.ones(2), ALL)
    with net.using(form), torch.no_grad():
        assert (net.model(x) - logits).abs().max() < 1e-9
    assert list(ranks.values()) == [min(5, 2 * (side**2 if kind == "reshape" else 1)), 9]
    assert list(shares.values()) == pytest.approx([1, 1])


def test_a_window_mean_is_all_that_window_mean_keeps() -> None:
    net = network()
    moved(net)
    assert net.working is not None
    free = net.working.layers["encoder.0"]
    form, _, _ = factorise(net, net.working, torch.ones(2), ALL)
    one, base = form.layers["encoder.0"], net.layers["encoder.0"].weight
    assert isinstance(one, Factored)
    assert free is not None
    assert not isinstance(free, Factored)
    left = residual(free.weight, base, *fit_scales(free.weight, base)).detach()
    mean = left.mean((2, 3), keepdim=True)
    assert (one.left @ one.right - mean[:, :, 0, 0]).abs().max() < 1e-12
    parts = 9 * mean.square().sum() + (left - mean).square().sum()
    assert left.square().sum() == pytest.approx(float(parts), rel=1e-10)


def test_directions_without_a_singular_value_are_dropped() -> None:
    """Both factors of such a direction are 0, and get no gradient: they could never learn."""
    dead = [torch.zeros(4, 1, requires_grad=True), torch.zeros(1, 3, requires_grad=True)]
    F.linear(torch.randn(5, 3), dead[0] @ dead[1]).square().sum().backward()  # type: ignore[no-untyped-call]
    assert all(part.grad is not None and not part.grad.any() for part in dead)
    net = network()
    free = net.free(net.drawn_head(3, 0))
    with torch.no_grad():  # a layer whose weight is 0 leaves an exact residual: none
        for path, layer in net.layers.items():
            one = free.layers[path]
            assert one is not None
            assert not isinstance(one, Factored)
            layer.weight.zero_()
            one.weight.zero_()
    form, ranks, _ = factorise(net, free, torch.ones(2), ALL)
    assert set(ranks.values()) == {0}
    assert [factor.numel() for factor in form.factors()] == [0, 0, 0, 0]
    with net.using(form):
        net.model(torch.randn(2, 2, 6, 6)).sum().backward()
    net.keep("one", form)
    kept = net.form_of(net.kept("one"))
    assert [f.shape for f in kept.factors()] == [f.shape for f in form.factors()]


@pytest.mark.parametrize("where", ["weight", "importance"])
def test_what_is_no_number_leaves_a_network_whose_answers_are_none(where: str) -> None:
    net = network()
    free = net.free(net.drawn_head(3, 0))
    importance = torch.ones(2)
    target = importance if where == "importance" else free.parameters()[0].data
    target.view(-1)[0] = torch.nan
    form, ranks, _ = factorise(net, free, importance, ALL)
    assert set(ranks.values()) == {0}
    with net.using(form):
        assert net.model(torch.randn(2, 2, 6, 6)).isnan().all()


def test_only_what_is_the_tasks_own_gets_gradients() -> None:
    net = network()
    net.freeze()
    moved(net)
    assert net.working is not None
    form, ranks, _ = factorise(net, net.working, torch.ones(2), Choice("flat", cap=2))
    before = {name: value.clone() for name, value in net.model.state_dict().items()}
    net.model.train()
    with net.using(form):
        net.model(torch.randn(8, 2, 6, 6)).square().sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in net.model.parameters())
    after = net.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    learned = form.parameters()
    assert all(p.grad is not None and p.grad.any() for p in learned)
    assert ranks == {"encoder.0": 2, "encoder.4": 2}
    factors = 2 * (5 + 2) + 2 * (9 + 180)
    biases = 5 + 9
    assert sum(p.numel() for p in learned) == net.sizes.fixed(3) + factors + biases


# Importance.


def test_importance_by_hand() -> None:
    """Two batches of 2 and 3; the loss is the mean of w . x, so that the gradient is the mean x."""
    weight = torch.zeros(1, 2, requires_grad=True)
    batches = [
        (torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.zeros(2)),  # mean (2, 4): mean square 10
        (torch.tensor([[0.0, 3.0]] * 3), torch.zeros(3)),  # mean (0, 3): 4.5
    ]

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.linear(x, weight).mean()

    by_hand = (2 * 10 + 3 * 4.5) / 2
    for order in (batches, batches[::-1]):
        assert float(importances([weight], loss_of, order, Distributed())) == by_hand
    summed = importances([weight], loss_of, batches, Distributed(), "sum")
    assert float(summed) == 2 * by_hand
    assert weight.grad is None


def test_importance_leaves_the_network_as_it_is() -> None:
    net = network()
    x, _ = moved(net)
    free = net.working
    assert free is not None
    before = copy.deepcopy(
        [*free.parameters(), *(t for n in free.norms.values() for t in n.values())]
    )
    weights = [p for p in free.parameters() if p.ndim in (2, 4)][:2]
    with net.using(free):
        loss = lambda x, y: F.cross_entropy(net.model(x), y)  # noqa: E731
        found = importances(weights, loss, [(x, torch.zeros(8).long())], Distributed())
    assert found.shape == (2,)
    assert (found > 0).all()
    after = [*free.parameters(), *(t for n in free.norms.values() for t in n.values())]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(p.grad is None for p in free.parameters())


# What is kept.


def test_factors_are_stored_without_loss_and_in_fewer_bytes_where_sparse() -> None:
    left, right = torch.randn(13, 6), torch.randn(6, 8)
    assert stored(left, right).keys() == {"pairs"}
    left[torch.rand(13, 6) < 0.8] = 0
    right[torch.rand(6, 8) < 0.8] = 0
    left[:, 2] = 0
    right[2, 0] = 1.0  # half a direction
    for drops in (False, True):
        kept = stored(left, right, drops)
        assert kept.keys() == {"values", "bits"}
        back = restored(kept, 13, 8)
        assert torch.equal(back[0] @ back[1], left @ right) or drops
        assert (back[0] @ back[1] - left @ right).abs().max() < 1e-15
        if not drops:
            assert torch.equal(back[0], left)
            assert torch.equal(back[1], right)
    assert len(kept["bits"]) < 6
    assert sum(t.numel() * t.element_size() for t in kept.values()) < 8 * 6 * 21 / 2


@pytest.mark.parametrize(
    ("layer", "given"),
    [
        (nn.Conv2d(2, 4, 3, groups=2), "Conv2d in 2 groups"),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), "circular"),
        (nn.Conv2d(2, 4, 3, padding="same"), "padding 'same'"),
        (nn.PReLU(), "PReLU"),
        (nn.Linear(2, 2).requires_grad_(False), None),
    ],
)
def test_what_cannot_be_of_low_rank_is_refused_by_name(layer: nn.Module, given: str | None) -> None:
    model = Classifier(nn.Sequential(nn.Linear(2, 2), layer), nn.Linear(4, 2))
    if given is None:  # what is frozen stays
        assert list(LowRankNetwork(model).layers) == ["encoder.0"]
        assert isinstance(model.encoder.get_submodule("1"), nn.Linear)
        return
    with pytest.raises(BadSpec, match=f"model: encoder.1: got .*{given}"):
        LowRankNetwork(model)


def test_a_head_alone_is_refused() -> None:
    with pytest.raises(BadSpec, match="layers that learn beneath its head"):
        LowRankNetwork(Classifier(nn.Flatten(), nn.Linear(4, 2)))


def test_penalties_by_hand() -> None:
    net = network()
    rows, left, right = torch.tensor([2.0, 3.0]), torch.tensor([[1.0], [-2.0]]), torch.ones(1, 3)
    one = Factored(rows, torch.zeros(1), left, right, torch.full((2,), 9.0))
    form = Form({"layer": one, "other": None}, {}, Dense(torch.full((2, 2), 9.0), None))
    assert float(penalty(form, 0.1, 0.2, "zero")) == pytest.approx(0.1 * 6 + 0.1 * (8 + 13))
    assert float(penalty(form, 0.1, 0.2, "one")) == pytest.approx(0.1 * 6 + 0.1 * (8 + 6))
    squares = sum(float(layer.weight.detach().square().sum()) for layer in net.layers.values())
    assert float(decayed(net.layers.values(), 0.2).detach()) == pytest.approx(0.1 * squares)
