from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from clray.models.captured import capture

pytestmark = pytest.mark.usefixtures("float64")


class Paths(nn.Module):
    """Layers used once, twice and never, and a change in place right after one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)
        self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu_()
        found: Tensor = self.last(self.twice(self.twice(x)).tanh())
        return found


@pytest.mark.parametrize("learns", [True, False])
def test_gradients_at_outputs_times_inputs_are_those_of_the_weights(learns: bool) -> None:
    torch.manual_seed(0)
    model, x, cotangent = Paths(), torch.randn(5, 3), torch.randn(5, 2)
    expected = {
        name: torch.autograd.grad(model(x), layer.weight, cotangent)[0]
        for name, layer in {"first": model.first, "last": model.last}.items()
    }
    model.requires_grad_(learns)
    with torch.no_grad():
        captured = capture(model, x, dict(model.named_children()))
    torch.testing.assert_close(captured.output, model(x))
    assert captured.inputs.keys() == expected.keys()
    for scale in (1.0, 2.0):
        for name, gradient in captured.gradients(scale * cotangent).items():
            found = gradient.T @ captured.inputs[name]
            torch.testing.assert_close(found, scale * expected[name], rtol=0, atol=1e-12)


def test_a_layer_that_the_output_ignores_has_gradients_of_zero() -> None:
    model = Paths()
    captured = capture(model.first, torch.ones(2, 3), {"": model.first})
    aside = capture(nn.Identity(), torch.ones(2, 3), {"never": model.never})
    assert captured.gradients(torch.ones(2, 4), more=False)[""].eq(1).all()
    assert aside.gradients(torch.ones(2, 3)) == {}

    class Ignoring(Paths):
        def forward(self, x: Tensor) -> Tensor:
            self.never(x.new_ones(len(x), 4))
            return super().forward(x)

    ignoring = Ignoring()
    layers: dict[str, nn.Module] = {"never": ignoring.never, "last": ignoring.last}
    found = capture(ignoring, torch.ones(2, 3), layers).gradients(torch.ones(2, 2))
    assert not found["never"].any()
    assert found["last"].any()


def test_nothing_stays_on_the_network_even_after_an_error() -> None:
    model = Paths()
    layers = dict(model.named_children())
    capture(model, torch.ones(2, 3), layers)
    with pytest.raises(RuntimeError):
        capture(model, torch.ones(2, 4), layers)
    assert not any(module._forward_hooks for module in model.modules())
