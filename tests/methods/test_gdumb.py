"""What GDumb remembers, and what its network is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from clray.errors import BadSpec
from clray.methods.gdumb import GDumb
from clray.task import Task

Build = Callable[..., GDumb]


def store(learner: GDumb, task: Task) -> None:
    for epoch in range(2):
        learner.begin_epoch(task, epoch, 2)
        for x, y in task.train.batches(8, seed=0, epoch=epoch):
            learner.observe(x, y, task)


def weights(learner: GDumb) -> Tensor:
    return torch.cat([p.flatten() for p in learner.model.parameters()]).detach()


def rows(x: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


def momentum(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.1, momentum=0.9)  # type: ignore[arg-type]


def test_the_memory_is_balanced_and_the_network_rests_while_a_task_is_there(
    build: Build, tasks: list[Task]
) -> None:
    learner = build("gdumb", memory=18, passes=2)
    offered = Counter[int]()
    for task in tasks:
        before = weights(learner)
        learner.begin_epoch(task, 0, 1)
        for x, y in task.train.batches(8, seed=0):
            assert learner.observe(x, y, task)["loss"] == 0
            offered.update(y.tolist())
            kept = Counter(learner.memory.draw(18)[1].tolist())
            for label, count in kept.items():
                assert count == min(offered[label], learner.memory.share(label))
        assert torch.equal(weights(learner), before)
        learner.end_task(task)
    assert sorted(kept.values()) == [4, 4, 5, 5]
    assert learner.footprint()["examples"] == 18


def test_the_network_is_made_of_the_memory_and_of_what_it_began_with(
    build: Build, tasks: list[Task]
) -> None:
    """Nothing of what was learned before is left, in the weights or in the optimizer."""
    through, directly = (
        build("gdumb", passes=3, setting={"optimizer": momentum}) for _ in range(2)
    )
    for learner in (through, directly):
        store(learner, tasks[0])
    state = through.setup.generator.get_state()
    through.end_task(tasks[0])
    with torch.no_grad():
        for parameter in through.model.parameters():
            parameter.normal_()
    through.setup.generator.set_state(state)
    facts = [learner.end_task(tasks[0]) for learner in (through, directly)]
    assert torch.equal(weights(through), weights(directly))
    assert facts[0] == facts[1]
    assert facts[0] is not None
    assert facts[0]["steps"] == 3 * 2  # of 20 examples
    assert build("gdumb").end_task(tasks[0]) is None  # nothing is remembered


def test_each_pass_is_over_the_memory_and_nothing_else(
    build: Build, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = build("gdumb", passes=4, memory_batch=7)
    store(learner, tasks[0])
    store(learner, tasks[1])
    seen: list[Tensor] = []
    step = learner.learn

    def learn(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return step(x, y)

    monkeypatch.setattr(learner, "learn", learn)
    held = rows(learner.memory.hold_out(0.3, 0)[0])
    learner.end_task(tasks[1])
    assert {len(x) for x in seen} <= {5, 6, 7}
    count = 20 - len(held)
    assert learner.memory.drawn == 4 * count
    learned = Counter(rows(torch.cat(seen)))
    assert set(learned.values()) == {4}
    assert learned.keys() == set(rows(learner.memory.images)) - set(held)


def test_rates_are_those_of_the_released_code(build: Build) -> None:
    """Torch's restarts, stepped from the third pass on, after a warm pass and one at the top."""
    learner = build("gdumb", lowest=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    scheduler = CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=2, eta_min=0.01)
    expected = [0.1, 1.0]
    for _ in range(2, 70):
        scheduler.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert [learner.rate(number) for number in range(70)] == pytest.approx(expected)
    assert build("gdumb", schedule="constant").rate(5) == 1


def test_cutmix_gives_each_image_a_piece_of_another_one(build: Build) -> None:
    learner = build("gdumb", cutmix=1.0, setting={"image_shape": (2, 8, 5)})
    x = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 2, 8, 5).contiguous()
    shares = []
    for _ in range(200):
        mixed, others, kept = learner.mixed(x)
        own = mixed == x
        assert torch.equal(mixed, torch.where(own, x, x[others]))
        elsewhere = others != torch.arange(6)
        assert own[elsewhere].float().mean((1, 2, 3)).tolist() == pytest.approx(
            [kept] * int(elsewhere.sum())
        )
        rectangle = ~own[elsewhere][:1, 0]
        assert rectangle.sum() == rectangle.any(1).sum() * rectangle.any(2).sum()
        shares.append(kept)
    assert 0.5 < sum(shares) / 200 < 0.9
    assert torch.equal(x[3], torch.full_like(x[3], 3))  # the memory's own stay


def test_labels_are_mixed_as_images_are(build: Build) -> None:
    learner = build("gdumb", cutmix=1.0)
    x = torch.randint(256, (8, 1, 6, 6), dtype=torch.uint8)
    y = torch.arange(8) % 4
    state = learner.setup.generator.get_state()
    learner._uniform(1)
    mixed, others, kept = learner.mixed(x)
    learner.setup.generator.set_state(state)
    logits = learner.forward(mixed).detach()
    one, other = F.cross_entropy(logits, y), F.cross_entropy(logits, y[others])
    torch.testing.assert_close(learner.learn(x, y), kept * one + (1 - kept) * other)
    with pytest.raises(BadSpec, match=r"method\.cutmix"):
        build("gdumb", cutmix=0.5, setting={"image_shape": (36, 1, 1)})
