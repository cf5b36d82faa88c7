"""Squared and absolute per-example gradients equal those of a plain loop over examples."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray import registry
from clray.errors import BadSpec
from clray.models import per_example
from clray.models.per_example import (
    absolute_gradients,
    check_independent,
    cotangents_of,
    squared_gradients,
)
from clray.spec import Component


def naive(
    model: nn.Module, x: Tensor, y: Tensor, measure: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    sums = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for row, label in zip(x, y, strict=True):
        model.zero_grad()
        F.cross_entropy(model(row[None]), label[None]).backward()  # type: ignore[no-untyped-call]
        for name, p in model.named_parameters():
            if p.grad is not None:
                sums[name] += measure(p.grad)
    return sums


def check(model: nn.Module, x: Tensor, classes: int, tolerance: float = 1e-5) -> None:
    y = torch.randint(classes, (len(x),))
    model.eval()
    losses = partial(F.cross_entropy, target=y, reduction="none")
    for sums, measure in ((squared_gradients, torch.square), (absolute_gradients, torch.abs)):
        found = sums(model, x, losses)
        expected = naive(model, x, y, measure)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            scale = float(value.detach().max()) + 1e-30
            assert float((found[name] - value).detach().abs().max()) <= tolerance * scale, name
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["mlp", "lenet", "slim_resnet18"])
def test_networks(name: str) -> None:
    torch.manual_seed(0)
    shape = (3, 16, 16)
    model = registry.configure("model", Component(name=name)).build("", shape, 5)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.normal_(norm.weight)
    check(model, torch.rand(6, *shape), 5)


def test_timms_normalisations_with_activations_have_the_fast_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model = registry.configure("model", Component(name="timm/mobilenetv1_100"))
    network = model.build("mobilenetv1_100", (3, 32, 32), 5)
    monkeypatch.delattr(per_example, "_add_any")
    check(network, torch.rand(3, 3, 32, 32), 5)


OVER_TIME: list[dict[str, int | str]] = [
    {},
    {"groups": 2, "stride": 2, "padding": 3, "dilation": 2},
    {"padding": "same", "dilation": 3},
]


@pytest.mark.parametrize("knobs", OVER_TIME)
def test_convolutions_over_time(knobs: dict[str, int | str]) -> None:
    torch.manual_seed(0)
    layers = (nn.Conv1d(4, 6, 3, **knobs), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))  # type: ignore[arg-type]
    model, x = nn.Sequential(*layers), torch.rand(6, 4, 12)
    model(x)
    check(model, x, 5)


class Odd(nn.Module):
    """Layers of every kind: used twice, tied, in place, of unknown type, unused, with tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, dilation=2, groups=2)
        self.group = nn.GroupNorm(2, 8)
        self.strange = nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect")
        self.token = nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)
        self.twice = nn.Linear(6, 6)
        self.tied = nn.Linear(6, 6)
        self.also_tied = nn.Linear(6, 6)
        self.also_tied.weight = self.tied.weight
        self.scale = nn.Parameter(torch.ones(6))
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(6, 6).requires_grad_(False)
        self.last = nn.Linear(6, 3)
        self.last.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x), inplace=True)
        x = self.strange(self.group(x).mul_(1.5))
        x = self.norm(self.token(x.flatten(2).transpose(1, 2))).mean(1)
        x = self.twice(torch.tanh(self.twice(x))) * self.scale
        x = self.also_tied(torch.tanh(self.tied(x)))
        return self.last(self.frozen(x))  # type: ignore[no-any-return]


def test_any_module() -> None:
    torch.manual_seed(0)
    check(Odd(), torch.rand(5, 4, 7, 7), 3)


def test_several_losses_add_up() -> None:
    torch.manual_seed(0)
    for model in (
        nn.Sequential(nn.Flatten(), nn.Linear(12, 4)),
        nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten()),
    ):
        model.eval()
        x = torch.rand(5, 3, 2, 2)
        both = squared_gradients(model, x, lambda out: out.square().T[:2])
        first = squared_gradients(model, x, lambda out: out.square()[:, 0])
        second = squared_gradients(model, x, lambda out: out.square()[:, 1])
        for name, value in both.items():
            torch.testing.assert_close(value, first[name] + second[name])


def test_only_the_parameters_that_are_named() -> None:
    """To the bit what they have among all; others cost nothing."""
    torch.manual_seed(0)
    model, x = Odd().eval(), torch.rand(5, 4, 7, 7)
    everything = squared_gradients(model, x, lambda out: out.square().T)
    for names in (["group.weight", "norm.bias"], ["conv.bias", "scale"], ["twice.weight"], []):
        found = squared_gradients(model, x, lambda out: out.square().T, names)
        assert found.keys() == set(names)
        for name, value in found.items():
            assert torch.equal(value, everything[name]), name


def test_cotangents_are_the_gradients_of_each_loss_at_the_output() -> None:
    torch.manual_seed(0)
    out = torch.rand(5, 3)
    (one,) = cotangents_of(lambda out: out.square().sum(1))(out)
    assert torch.equal(one, 2 * out)
    several = cotangents_of(lambda out: out.square().T)(out)
    assert torch.equal(torch.stack(several), 2 * torch.diag_embed(out).transpose(0, 1))


def test_training_mode_is_refused_and_no_examples_give_zeros() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="evaluation mode"):
        squared_gradients(model, torch.rand(2, 3), lambda out: out.sum(1))
    found = squared_gradients(model.eval(), torch.rand(0, 3), lambda out: out.sum(1))
    assert all(not value.any() for value in found.values())


def test_a_network_that_mixes_examples_is_refused() -> None:
    kept, alone = (nn.Sequential(nn.BatchNorm1d(3, track_running_stats=s)) for s in (True, False))
    check_independent(kept)
    with pytest.raises(BadSpec, match="accepted: running statistics"):
        check_independent(alone)


def test_is_quick() -> None:
    """Eight thousand examples cost less than two epochs of plain training on them."""
    torch.manual_seed(0)
    model = registry.configure("model", Component(name="mlp")).build("", (1, 28, 28), 10).eval()
    x, y = torch.rand(2048, 1, 28, 28), torch.randint(10, (2048,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)

    def train() -> None:
        for rows, labels in zip(torch.split(x, 64), torch.split(y, 64), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(rows), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def square() -> None:
        for rows, labels in zip(torch.split(x, 256), torch.split(y, 256), strict=True):
            losses = partial(F.cross_entropy, target=labels, reduction="none")
            squared_gradients(model, rows, losses)

    def seconds(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    assert min(seconds(square) for _ in range(3)) < 2 * min(seconds(train) for _ in range(3))
