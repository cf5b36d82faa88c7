from __future__ import annotations

import pytest
import torch
from timm.layers import Conv2dSame
from torch import nn

from clray.models.matrix_layers import (
    as_matrix,
    from_matrix,
    inputs_of,
    is_matrix,
    num_groups,
    outputs_of,
    with_ones,
)

pytestmark = pytest.mark.usefixtures("float64")


IMAGE, TIME, ONE = (3, 4, 9, 8), (3, 4, 9), (3, 4)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 5), ONE),
        (nn.Linear(9, 5), TIME),
        (nn.Linear(8, 5, bias=False), IMAGE),
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), TIME),
        (nn.Conv1d(4, 6, 4, padding="same"), TIME),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2)), IMAGE),
        (nn.Conv2d(4, 6, 3, dilation=(1, 2), padding="valid", bias=False), IMAGE),
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), IMAGE),
        (nn.Conv2d(4, 6, (4, 2), padding="same", dilation=(1, 3), groups=2), IMAGE),
        (Conv2dSame(4, 6, 3, stride=2), IMAGE),
        (Conv2dSame(4, 4, (5, 2), stride=(3, 2), groups=4, bias=False), IMAGE),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_weights_times_inputs_are_outputs(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, x = layer.double(), torch.randn(shape)
    assert is_matrix(layer)
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, nn.Parameter)
    assert bias is None or isinstance(bias, nn.Parameter)
    matrix = as_matrix(weight, bias, num_groups(layer))
    inputs = inputs_of(layer, x)
    found = matrix @ (inputs if bias is None else with_ones(inputs))
    torch.testing.assert_close(found, outputs_of(layer, layer(x)), rtol=0, atol=1e-12)

    again, shift = from_matrix(matrix, weight, bias)
    assert torch.equal(again, weight)
    assert shift is bias is None or (shift is not None and torch.equal(shift, bias))


class Standardised(nn.Conv2d):
    """Its forward could be anything."""


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(2, 2, 3, padding="same"),
        nn.ConvTranspose2d(2, 2, 3),
        Standardised(2, 2, 3, padding="same"),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.LayerNorm(2),
    ],
    ids=str,
)
def test_other_layers_are_none(layer: nn.Module) -> None:
    assert not is_matrix(layer)
