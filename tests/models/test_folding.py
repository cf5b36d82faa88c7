from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from clray.models.folding import fold_norms, leak


def normalised(network: nn.Module) -> nn.Module:
    """With statistics and scales as training might leave them."""
    for norm in (m for m in network.modules() if isinstance(m, _BatchNorm)):
        for tensor in (norm.running_mean, norm.bias):
            if tensor is not None:
                nn.init.normal_(tensor, std=0.2)
        for tensor in (norm.running_var, norm.weight):
            if tensor is not None:
                nn.init.uniform_(tensor, 0.8, 1.4)
    return network.eval()


def resnet18() -> nn.Module:
    found: nn.Module = torchvision.models.resnet18(num_classes=5)
    return found


def mobilenet() -> nn.Module:
    found: nn.Module = timm.create_model("mobilenetv1_100", num_classes=5)
    return found


@pytest.mark.parametrize("build", [resnet18, mobilenet])
def test_a_folded_network_gives_what_it_gave(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = normalised(build())
    x = torch.rand(2, 3, 32, 32)
    given, exactly = network(x), network.double()(x.double())
    frozen = next(network.parameters()).requires_grad_(False).shape
    assert fold_norms(network, x.double()) == 0
    assert not any(isinstance(m, _BatchNorm) for m in network.modules())
    torch.testing.assert_close(network(x.double()), exactly, rtol=0, atol=1e-10)
    torch.testing.assert_close(network.float()(x), given, rtol=0, atol=1e-4)
    learns = {p.requires_grad for p in list(network.parameters())[2:]}
    assert learns == {True}
    first, shift = list(network.parameters())[:2]
    assert (first.shape, len(shift)) == (frozen, len(first))
    assert not first.requires_grad
    assert not shift.requires_grad


class Path(nn.Module):
    """Calls its modules in an order."""

    def __init__(self, order: str, **modules: nn.Module) -> None:
        super().__init__()
        self.order = order.split()
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


@pytest.mark.parametrize(
    ("network", "shape", "stay"),
    [
        (Path("a n", a=nn.Linear(3, 4), n=nn.BatchNorm1d(4)), (3,), 0),
        (Path("a n", a=nn.Linear(3, 4), n=nn.BatchNorm1d(4, affine=False)), (3,), 0),
        (Path("a n", a=nn.Conv1d(3, 4, 2, bias=False), n=nn.BatchNorm1d(4)), (3, 5), 0),
        (Path("n a", a=conv(), n=nn.BatchNorm2d(3)), (3, 4, 4), 1),
        (Path("a r n", a=conv(), r=nn.ReLU(inplace=True), n=nn.BatchNorm2d(3)), (3, 4, 4), 1),
        (Path("a n a", a=conv(), n=nn.BatchNorm2d(3)), (3, 4, 4), 1),
        (Path("a n n", a=conv(), n=nn.BatchNorm2d(3)), (3, 4, 4), 1),
        (Path("a n", a=nn.Linear(3, 3), n=nn.BatchNorm1d(3)), (3, 3), 1),
        (Path("a n", a=conv(), n=nn.BatchNorm2d(3, track_running_stats=False)), (3, 4, 4), 1),
    ],
    ids=[
        "linear",
        "without scale",
        "over time",
        "before",
        "after a change in place",
        "layer used twice",
        "norm used twice",
        "of tokens",
        "of each batch",
    ],
)
def test_what_follows_no_layer_of_its_own_stays(
    network: nn.Module, shape: tuple[int, ...], stay: int
) -> None:
    torch.manual_seed(0)
    normalised(network.double())
    x = torch.randn(4, *shape, dtype=torch.float64)
    given = network(x)
    assert fold_norms(network, x) == stay
    torch.testing.assert_close(network(x), given, rtol=0, atol=1e-10)


def test_a_layer_whose_output_goes_elsewhere_too_is_refused() -> None:
    class Preactivated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            found: Tensor = x + self.norm(x)
            return found

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="moved the network's outputs"):
        fold_norms(normalised(Preactivated()), torch.rand(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("unit", "expected"), [(nn.ReLU(), [-0.4, 0, 3, 9]), (nn.ReLU6(), [-0.4, 0, 3, 6])], ids=str
)
def test_units_leak(unit: nn.Module, expected: list[float]) -> None:
    network = nn.Sequential(unit)
    assert leak(network, 0.2) == 1
    torch.testing.assert_close(network(torch.tensor([-2.0, 0, 3, 9])), torch.tensor(expected))


def test_every_unit_leaks_also_a_shared_one() -> None:
    unit = nn.ReLU()
    network = nn.Sequential(nn.Identity(), unit, nn.Sequential(unit, nn.Tanh()))
    leak(network, 0.5)
    assert not any(isinstance(m, nn.ReLU) for m in network.modules())
    folded = normalised(mobilenet())
    fold_norms(folded, torch.rand(1, 3, 32, 32))
    assert leak(folded, 0.5) == 27
    assert leak(folded, 0.5) == 0
