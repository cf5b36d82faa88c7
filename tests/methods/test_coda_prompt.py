"""Which components weigh how much, which learn, and what they begin as."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.coda_prompt import CodaPrompt, Components
from clray.models.prompted_vit import with_prefixes
from clray.task import Task

Build = Callable[..., CodaPrompt]
SMALL = {"components": 15, "length": 4, "num_layers": 2}
"""Three for each of five tasks."""


def components() -> Components:
    return Components(2, 3, 4, 6, 16, torch.Generator().manual_seed(0))


def by_hand(made: Components, query: Tensor) -> Tensor:
    """Prompts [L, B, length, D], one sum after another."""
    prompts = torch.zeros(2, len(query), 6, 16)
    for layer, rows in enumerate(made.rows()):
        for row in rows:
            key, attention, prompt = row[:16], row[16:32], row[32:].view(6, 16)
            weights = F.cosine_similarity(query * attention, key.unsqueeze(0))
            prompts[layer] += weights[:, None, None] * prompt
    return prompts


def test_a_prompt_is_the_sum_of_components_weighed_by_attention() -> None:
    made = components()
    made.expand(torch.Generator().manual_seed(1))
    query = torch.randn(5, 16)
    assert made.rows().shape == (2, 8, 8 * 16)
    torch.testing.assert_close(made(query), by_hand(made, query))
    torch.testing.assert_close(made(100 * query), made(query))


def test_new_components_are_orthogonal_to_all_before_them() -> None:
    made = components()
    for _ in range(2):
        for part in made.split(made.rows().detach()):
            torch.testing.assert_close(part @ part.mT, torch.eye(part.shape[1]).expand(2, -1, -1))
        made.expand(torch.Generator().manual_seed(1))
    # Those that were learned are no longer orthogonal among themselves.
    made = components()
    with torch.no_grad():
        made.new.add_(0.3 * torch.randn_like(made.new))
    learned = made.new.detach().clone()
    made.expand(torch.Generator().manual_seed(1))
    assert torch.equal(made.old[:, :4], learned)
    for part in made.split(made.rows().detach()):
        products = part @ part.mT
        torch.testing.assert_close(products[:, 4:, :4], torch.zeros(2, 4, 4), atol=1e-6, rtol=0)
        torch.testing.assert_close(products[:, 4:, 4:], torch.eye(4).expand(2, -1, -1))
        assert (products[:, :4, :4] - torch.eye(4)).abs().max() > 0.1


def test_new_components_are_as_gram_and_schmidt_make_them() -> None:
    made = components()
    drawn = torch.randn(
        2, 4, 8 * 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for part, raw in zip(made.split(made.new.detach()), made.split(drawn), strict=True):
        expected: list[Tensor] = []
        for vector in raw[1]:
            rest = vector - sum(((vector @ unit) * unit for unit in expected), torch.zeros(()))
            expected.append(rest / rest.norm())
        torch.testing.assert_close(part[1], torch.stack(expected).float())


def test_the_penalty_by_hand() -> None:
    made = components()
    torch.testing.assert_close(made.penalty(), torch.tensor(0.0), atol=1e-10, rtol=0)
    made.expand(torch.Generator().manual_seed(1))
    with torch.no_grad():
        made.new.add_(0.1 * torch.randn_like(made.new))
    expected = torch.zeros(())
    for rows in made.rows():
        for part in (rows[:, :16], rows[:, 16:32], rows[:, 32:]):
            expected = expected + ((part @ part.T - torch.eye(8)) ** 2).mean()
    torch.testing.assert_close(made.penalty(), expected)
    assert expected > 0.01


def test_the_loss_by_hand(build: Build, tasks: list[Task]) -> None:
    learner = build("coda_prompt", **SMALL, orthogonality=0.5)
    with torch.no_grad():
        learner.components.new.add_(0.1)
    learner.begin_task(tasks[0])
    x, y = next(tasks[0].train.batches(8))
    model: Any = learner.model
    inputs = model.encoder.prepared(x / 255)
    query = learner.network(inputs)
    tokens = learner.network._pos_embed(learner.network.patch_embed(inputs))
    features = with_prefixes(learner.network, tokens, learner.components(query))
    penalty = 0.5 * learner.components.penalty()
    expected = F.cross_entropy(model.head(features), y) + penalty
    told = learner.observe(x, y, tasks[0])
    torch.testing.assert_close(told["loss"], expected.detach())
    torch.testing.assert_close(told["penalty"], penalty.detach())


def test_earlier_components_and_the_encoder_stay_as_they_were(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("coda_prompt", **SMALL, orthogonality=0.1)
    model: Any = learner.model
    frozen = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    learned: list[Tensor] = []
    parameters = []
    for task in tasks:
        learner.begin_task(task)
        began = learner.components.new.detach().clone()
        for x, y in task.train.batches(8, seed=0):
            learner.observe(x, y, task)
        learner.end_task(task)
        learned.append(learner.components.new.detach().clone())
        assert not torch.equal(began, learned[-1])
        assert torch.equal(learner.components.rows(), torch.cat(learned, 1))
        parameters.append(learner.footprint()["parameters"])
    assert len(learned) == 3
    assert parameters[1] - parameters[0] == parameters[2] - parameters[1] == 2 * 3 * 6 * 32
    now = model.encoder.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_the_learning_rate_falls_to_zero_in_each_task(build: Build, tasks: list[Task]) -> None:
    learner = build("coda_prompt", **SMALL)
    for task in tasks[:2]:
        learner.begin_task(task)
        rates = []
        for x, y in task.train.batches(8, seed=0):
            rates.append(learner.optimizer.param_groups[0]["lr"])
            learner.observe(x, y, task)
        assert rates[0] == 0.1
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.01
    steady = build("coda_prompt", **SMALL, schedule="constant")
    steady.begin_task(tasks[0])
    for x, y in tasks[0].train.batches(8, seed=0):
        steady.observe(x, y, tasks[0])
    assert steady.optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"components": 33}, "components: got 33; accepted: at most 32"),
        ({"components": 4}, "components: got 4; accepted: at least 5"),
        ({"num_layers": 3}, "num_layers: got 3; accepted: at most 2"),
        ({"length": 5}, "length: got 5"),
    ],
)
def test_what_does_not_fit_is_refused(build: Build, knobs: dict[str, int], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        build("coda_prompt", **{**SMALL, **knobs})
