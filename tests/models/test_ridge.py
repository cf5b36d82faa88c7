"""Sums of a stream, and the ridge regression that follows from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray.errors import Infeasible
from clray.models.ridge import RidgeRegression, ridge_solution


class Squares(RidgeRegression):
    """Features and their squares."""

    def expand(self, features: Tensor) -> Tensor:
        return torch.cat([features, features.square()], 1).double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(40, 3), torch.randint(3, (40,))


def fitted(data: tuple[Tensor, Tensor], ridge: float = 0.5, times: int = 1) -> Squares:
    found = Squares(6, 4, ridge, times)
    found.add(*data)
    return found


def test_solves_what_it_says(data: tuple[Tensor, Tensor]) -> None:
    found = fitted(data, 0.5, 3)
    h, y = found.expand(data[0]), torch.eye(4, dtype=torch.float64)[data[1]]
    weights, biases = found.solve()
    assert not biases.any()
    gradient = h.T @ (h @ weights - y) + 1.5 * weights
    assert gradient.abs().max() < 1e-12
    assert torch.equal(found.counts, y.sum(0).long())


def test_logits_are_scores_up_to_the_best_s(data: tuple[Tensor, Tensor]) -> None:
    found = fitted(data)
    scores = found.expand(data[0]) @ found.solve()[0]
    logits = found(data[0])
    assert logits.dtype == torch.float32
    wanted = scores - scores[:, :3].amax(1, keepdim=True)
    torch.testing.assert_close(logits[:, :3], wanted[:, :3].float())
    assert (logits[:, 3] == -torch.inf).all()  # of which there was no example


def test_is_solved_anew_after_a_change(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    found = fitted((x[:20], y[:20]))
    early = found(x)
    found.add(x[20:], y[20:])
    torch.testing.assert_close(found(x), fitted(data)(x))
    assert not torch.equal(found(x), early)


def test_what_is_singular_to_rounding_is_refused(data: tuple[Tensor, Tensor]) -> None:
    G = torch.ones(5, 5, dtype=torch.float64)
    assert ridge_solution(G, torch.ones(5, 1, dtype=torch.float64), 1e-200) is None
    x, y = data
    alone = fitted((x[:2], y[:2]), 1e-200, 7)
    with pytest.raises(Infeasible, match=r"method\.ridge: got 1e-200; accepted: more"):
        alone(x)
