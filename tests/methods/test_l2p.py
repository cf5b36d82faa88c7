"""What is selected, and what learns from what."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clray import registry
from clray.errors import BadSpec
from clray.methods.l2p import L2p, PromptPool
from clray.models.prompted_vit import with_tokens
from clray.spec import TrialSpec
from clray.task import Task
from tests.methods.conftest import TRANSFORMER

Build = Callable[..., L2p]


def test_the_keys_of_greatest_cosine_are_selected() -> None:
    pool = PromptPool(4, 2, 3, 2, torch.Generator().manual_seed(0))
    assert 0 <= float(pool.prompts.detach().min()) <= float(pool.prompts.detach().max()) < 0.01
    pool.keys.data = torch.tensor([[9.0, 0, 0], [0, 1, 1], [0, 5, 0], [0, -1, 0]])
    tokens, distances = pool(torch.tensor([[0.0, 7, 0], [1, 0, 0.1]]))
    first = torch.cat([pool.prompts[2], pool.prompts[1]])
    assert torch.equal(tokens[0], first)  # by length alone, key 0 would win
    torch.testing.assert_close(distances[0], torch.tensor(1 - 0.5**0.5))
    second = torch.cat([pool.prompts[0], pool.prompts[1]])
    assert torch.equal(tokens[1], second)
    cosines = torch.tensor([1, 0.1 / 2**0.5]) / 1.01**0.5
    torch.testing.assert_close(distances[1], (1 - cosines).sum())


def test_the_loss_by_hand_and_what_learns_from_it(build: Build, tasks: list[Task]) -> None:
    learner = build("l2p", pool_size=12, length=2, num_selected=2, pull=0.3)
    model: Any = learner.model
    pool: PromptPool = model.prompts
    pool.keys.data = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    frozen = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    learner.begin_task(tasks[0])
    x, y = next(tasks[0].train.batches(4))

    inputs = model.encoder.prepared(x / 255)
    query = learner.network(inputs).detach()
    keys = pool.keys.detach().clone().requires_grad_()
    cosines = F.cosine_similarity(query.unsqueeze(1), keys.unsqueeze(0), dim=2)
    best, chosen = cosines.topk(2, 1)
    pull = 0.3 * (1 - best).sum(1).mean()
    pull.backward()  # type: ignore[no-untyped-call]
    tokens = learner.network._pos_embed(learner.network.patch_embed(inputs))
    prompts = pool.prompts[chosen].flatten(1, 2)
    outputs = with_tokens(learner.network, tokens, prompts)[:, :4].mean(1)
    expected = F.cross_entropy(model.head(outputs), y) + pull

    told = learner.observe(x, y, tasks[0])
    torch.testing.assert_close(told["loss"], expected.detach())
    torch.testing.assert_close(told["penalty"], pull.detach())
    torch.testing.assert_close(pool.keys.grad, keys.grad)  # of the pull, and of nothing else
    assert pool.prompts.grad is not None
    selected = pool.prompts.grad.flatten(1).any(1)
    assert selected.nonzero().squeeze(1).tolist() == sorted({*chosen.flatten().tolist()})
    torch.testing.assert_close(learner.predict(x, None), learner.forward(x))
    now = model.encoder.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in frozen.items())


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("l2p", pool_size=6, length=2, num_selected=1)
    model: Any = learner.model
    model.prompts.keys.data = torch.randn(6, 32)
    x, _ = next(tasks[0].train.batches(50))
    alone = torch.cat([learner.predict(image.unsqueeze(0), None) for image in x])
    torch.testing.assert_close(learner.predict(x, None), alone)


@pytest.mark.parametrize(("compete", "still"), [("task", True), ("protocol", False)])
def test_the_head_of_other_tasks_learns_only_if_their_classes_compete(
    build: Build, tasks: list[Task], compete: str, still: bool
) -> None:
    learner = build("l2p", compete=compete)
    model: Any = learner.model
    before = model.head.weight.detach().clone()
    own = Task(0, "0", (1, 2), tasks[0].train, tasks[0].eval)
    learner.begin_task(own)
    for x, y in own.train.batches(50):
        chosen = (y == 1) | (y == 2)
        loss = learner.observe(x[chosen], y[chosen], own)["loss"]
    same = (model.head.weight == before).all(1).tolist()
    assert same == [still, False, False, still]
    assert math.isfinite(float(loss))


def test_more_prompts_than_there_are_cannot_be_selected(build: Build) -> None:
    with pytest.raises(BadSpec, match=r"num_selected: got 5; accepted: at most 4"):
        build("l2p", pool_size=4)


def test_other_encoders_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(model: Any) -> TrialSpec:
        plain = {"method": "l2p", "benchmark": "split-digits", "model": model}
        return registry.complete(TrialSpec.model_validate(plain))

    complete(TRANSFORMER)
    for model in ("mlp", {"name": "timm/resnet18", "frozen": True}):
        with pytest.raises(BadSpec, match=r"model, for method l2p: .* a vision transformer of"):
            complete(model)
    with pytest.raises(BadSpec, match=r"for method l2p: .* a frozen encoder"):
        complete({**TRANSFORMER, "frozen": False})
    benchmark = registry.find("benchmark", "split-digits").config
    monkeypatch.setattr(benchmark, "encoder_key", lambda self: "0" * 20)
    with pytest.raises(BadSpec, match=r"benchmark, for method l2p: .* of features.* of images"):
        complete(TRANSFORMER)


def test_prompts_are_counted(build: Build) -> None:
    learner = build("l2p", pool_size=6, length=2, num_selected=2)
    model: Any = learner.model
    plain = sum(p.numel() for p in [*model.encoder.parameters(), *model.head.parameters()])
    assert learner.footprint()["parameters"] == plain + 6 * 3 * 32
