"""What the sigmoids are taught, and which class is nearest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.errors import BadSpec
from clray.methods.icarl import RECENT, Icarl
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner
from tests.methods.rehearsed import begin, enter, learn, made, step, stream


def icarl(memory: int = 20, **knobs: Any) -> Icarl:
    learner: Icarl = made("icarl", memory=memory, **knobs)
    return learner


def entropy(target: float, answer: float) -> float:
    return -target * math.log(answer) - (1 - target) * math.log(1 - answer)


@pytest.mark.parametrize("scenario", ["class-incremental", "task-incremental"])
def test_loss_of_a_case_by_hand(scenario: str) -> None:
    """Units 0 and 1 are old, 2 and 3 the task's, the others not there yet."""
    learner, (first, second, _) = icarl(setting={"scenario": scenario}), stream()
    learn(learner, first)
    begin(learner, second)
    if scenario == "task-incremental":
        own = torch.arange(6) // 2
        learner.rivals[:] = own[:, None] == own
    third = math.log(3)
    logits = torch.tensor([[0.0, third, third, 0.0, 50.0, 50.0]]).repeat(2, 1)
    old = torch.tensor([[-third, 0.0, 9.0, 9.0, 9.0, 9.0]]).repeat(2, 1)
    kept = entropy(1 / 4, 1 / 2) + entropy(1 / 2, 3 / 4)
    # An example of class 2 is new; one of class 0 is taught the old answer, and not its label.
    expected = torch.tensor(
        [kept + entropy(1, 3 / 4) + math.log(2), kept + entropy(0, 3 / 4) + math.log(2)]
    )
    if scenario == "task-incremental":
        expected[1] = kept
    torch.testing.assert_close(learner.losses(logits, torch.tensor([2, 0]), old), expected)


def test_a_step_learns_the_batch_and_a_draw_together() -> None:
    learner, (first, second, _) = icarl(memory_batch=6), stream()
    learn(learner, first)
    begin(learner, second)
    learner.train_mode(False)  # so that all batches are normalised alike
    state = learner.setup.generator.get_state()
    old_x, old_y, _ = learner.memory.draw(6)
    learner.setup.generator.set_state(state)
    x, y = next(second.train.batches(8))
    x, y = torch.cat([x, old_x]), torch.cat([y, old_y])
    assert learner.old is not None
    expected = learner.losses(learner.forward(x), y, learner.old(x / 255)).mean().detach()
    out = learner.observe(x[:8], y[:8], second)
    torch.testing.assert_close(out["loss"], expected)


def pixels(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 2)


def test_the_nearest_mean_of_a_case_by_hand() -> None:
    """Of images of two pixels, which are their own features. The unit features of class 0 are
    (0.6, 0.8) and (0.8, 0.6), whatever their length, so that its mean lies at 45 degrees."""
    learner = small_learner("icarl", linear=True, setting={"image_shape": (1, 1, 2)})
    images = pixels([[150, 200], [8, 6], [90, 0]])
    train = TensorExamples(images, torch.tensor([0, 0, 1]), torch.arange(3))
    task = Task(0, "0", (0, 1), train, train).for_learning()
    learner.begin_task(task)
    learner.end_task(task)
    found = learner.predict(pixels([[0, 7], [70, 0]]), None)
    half = math.sqrt(0.5)
    torch.testing.assert_close(found[:, :2], torch.tensor([[0, -half], [half - 1, 0]]))
    assert (found[:, 2:] < -2).all()  # never seen
    head = learner.model.head(pixels([[0, 7], [70, 0]]).flatten(1) / 255)  # type: ignore[operator]
    assert torch.equal(found[:, 2] > found[:, 3], head[:, 2] > head[:, 3])


def nearest(learner: Icarl, asked: Tensor, parts: list[Tensor]) -> Tensor:
    """Cosines to the mean of each part's unit features, less the best one."""
    means = [F.normalize(learner.features(part).double()).mean(0) for part in parts]
    units = F.normalize(learner.features(asked).double())
    cosines = units @ F.normalize(torch.stack(means)).T
    return (cosines - cosines.amax(1, keepdim=True)).float()


def test_means_follow_the_network_and_new_classes_the_latest_batches() -> None:
    learner, (first, second, _) = icarl(), stream()
    learn(learner, first)
    begin(learner, second)
    for number in range(11):
        if number == 10:
            enter(learner, second, 1)
        step(learner, second, number)
        learner.train_mode(False)
        learner.predict(torch.cat([x for x, _ in second.train.batches(8)]), None)
        learner.train_mode(True)
    learner.train_mode(False)
    seen = [*list(second.train.batches(8, seed=3))[11 - RECENT :]]
    seen.append(next(second.train.batches(8, seed=3, epoch=1)))
    x, y = (torch.cat(part) for part in zip(*seen, strict=True))
    kept, labels, _ = learner.memory.spread(20)
    parts = [kept[labels == 0], kept[labels == 1], x[y == 2], x[y == 3]]
    asked = next(first.train.batches(9))[0]
    found = learner.predict(asked, None)[:, :4]
    torch.testing.assert_close(found, nearest(learner, asked, parts))

    learner.end_task(second)
    kept, labels, _ = learner.memory.spread(20)
    assert labels.bincount().tolist() == [5, 5, 5, 5]
    found = learner.predict(asked, None)[:, :4]
    expected = nearest(learner, asked, [kept[labels == label] for label in range(4)])
    torch.testing.assert_close(found, expected)


def test_what_is_held_out_of_the_memory_takes_no_part_in_the_means() -> None:
    learner, tasks = icarl(), stream()
    learn(learner, tasks[0])
    learner.train_mode(False)
    x = next(tasks[0].train.batches(9))[0]
    whole = learner.predict(x, None)
    learner.memory.hold_out(0.9, seed=0)
    learner.means = None
    assert not torch.allclose(learner.predict(x, None), whole)


def test_refuses_a_memory_without_room_for_each_class() -> None:
    with pytest.raises(BadSpec, match=r"protocol\.memory"):
        icarl(memory=5)
    assert icarl(memory=6).memory.capacity == 6
