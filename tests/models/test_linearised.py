from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call

from clray.models.linearised import Linearised


class Residual(nn.Module):
    """A block with a strided path around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.around = nn.Conv2d(3, 4, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.conv(x))
        found += self.around(x)
        return found.relu_()


def ended(*layers: nn.Module) -> nn.Module:
    """With features of images (3, 6, 6), and three outputs; normalisation as if it were trained."""
    network = nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)).eval()
    network(torch.zeros(1, 3, 6, 6))
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return network


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "smooth": lambda: ended(nn.Flatten(), nn.Linear(108, 7), nn.Tanh(), nn.Linear(7, 6)),
    "leaky": lambda: ended(nn.Flatten(), nn.Linear(108, 7), nn.LeakyReLU(), nn.Linear(7, 6)),
    "convolution": lambda: ended(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)),
    "strided": lambda: ended(nn.Conv2d(3, 4, (3, 2), stride=2, bias=False)),
    "grouped": lambda: ended(nn.Conv2d(3, 6, 3, groups=3)),
    "normalised": lambda: ended(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 2), nn.BatchNorm2d(4)),
    "pooled": lambda: ended(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)),
    "residual": lambda: ended(Residual()),
}


def pretrained(name: str) -> nn.Module:
    if name == "resnet18":
        network = torchvision.models.resnet18(num_classes=5)
    elif name == "vit_b_16":
        network = torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32)
        nn.init.normal_(network.heads.head.weight, std=0.1)
    else:
        network = timm.create_model(
            name, num_classes=5, **({"img_size": 32} if "vit" in name else {})
        )
    found: nn.Module = network.eval()
    return found


def linearised(network: nn.Module) -> Linearised:
    return Linearised(network, [name for name, _ in network.named_parameters()])


def random_steps(model: Linearised, size: float = 1.0) -> dict[str, Tensor]:
    """Random, and set."""
    found = {name: size * torch.randn(model.step(name).shape) for name in model.names}
    put(model, found)
    return found


def put(model: Linearised, steps: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, step in steps.items():
            model.step(name).copy_(step)


def moved(model: Linearised, steps: dict[str, Tensor], scale: float, x: Tensor) -> Tensor:
    """What the network itself gives with its weights moved."""
    weights = {name: w + scale * steps[name] for name, w in model.anchors.items()}
    found: Tensor = functional_call(model.network, weights, (x,))
    return found


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NETWORKS)
def test_without_steps_it_is_the_network_and_with_them_its_derivative(name: str) -> None:
    torch.manual_seed(0)
    network, x = NETWORKS[name](), torch.randn(5, 3, 6, 6)
    given = network(x).detach()
    model = linearised(network)
    assert (model(x) - given).abs().max() <= 1e-12
    steps = random_steps(model)
    ahead, behind = (moved(model, steps, s, x) for s in (1e-6, -1e-6))
    expected = (ahead - behind) / 2e-6
    assert ((model(x) - given) - expected).norm() <= 1e-8 * expected.norm()


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv1_100", "test_vit", "vit_b_16"])
def test_of_a_known_network_too(name: str) -> None:
    torch.manual_seed(0)
    network, x = pretrained(name), torch.rand(2, 3, 32, 32)
    given = network(x).detach()
    model = linearised(network)
    with torch.no_grad():
        assert (model(x) - given).abs().max() <= 1e-5
    model(x).square().sum().backward()
    learned = [p.grad is not None and bool(p.grad.any()) for p in model.steps.values()]
    assert sum(learned) > 0.9 * len(learned)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.usefixtures("float64")
def test_what_is_left_out_shrinks_as_the_square_of_the_step() -> None:
    torch.manual_seed(0)
    model, x = linearised(NETWORKS["smooth"]()), torch.randn(5, 3, 6, 6)
    steps, errors = random_steps(model), []
    for scale in (1e-2, 1e-3):
        put(model, {name: scale * step for name, step in steps.items()})
        errors.append(float((moved(model, steps, scale, x) - model(x)).detach().norm()))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_adjoint_of_the_derivative_whatever_the_steps(name: str) -> None:
    torch.manual_seed(0)
    network, x, cotangent = NETWORKS[name](), torch.randn(5, 3, 6, 6), torch.randn(5, 3)
    model = linearised(network)
    given = network(x)
    steps = random_steps(model, 3.0)
    forward = (cotangent * (model(x) - given)).sum()
    (cotangent * model(x)).sum().backward()
    anchors = {key: w.clone().requires_grad_() for key, w in model.anchors.items()}
    out = functional_call(network, anchors, (x,))
    ordinary = torch.autograd.grad(out, list(anchors.values()), cotangent)
    backward = torch.zeros(())
    for key, expected in zip(anchors, ordinary, strict=True):
        gradient = model.step(key).grad
        assert gradient is not None
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)
        backward += (gradient * steps[key]).sum()
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["normalised", "residual"])
def test_learning_moves_the_steps_alone(name: str) -> None:
    torch.manual_seed(0)
    network = NETWORKS[name]()
    before = copy.deepcopy(network.state_dict())
    model = nn.Sequential(linearised(network)).train()
    assert not any(module.training for module in network.modules())
    optimizer = torch.optim.SGD(model.parameters(), 0.01, weight_decay=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        losses.append((model(torch.ones(4, 3, 6, 6)) - 1).square().mean())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    after = network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_steps_added_to_the_weights_are_another_function() -> None:
    torch.manual_seed(0)
    model, x = linearised(NETWORKS["leaky"]()), torch.randn(5, 3, 6, 6)
    steps = random_steps(model, 0.3)
    linear, curved, first = model(x), moved(model, steps, 1.0, x), moved(model, steps, 0.0, x)
    assert (linear - curved).norm() > 0.1 * (linear - first).norm()


def test_only_named_parameters_have_steps() -> None:
    network, x = NETWORKS["residual"](), torch.randn(2, 3, 6, 6)
    model = Linearised(network, ["0.conv.weight"])
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "steps.0/conv/weight"
    ]
    assert torch.equal(Linearised(network, [])(x), network(x))
