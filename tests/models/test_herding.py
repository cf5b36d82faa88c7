"""Which exemplars are chosen, and which make room."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.aside import Aside
from clray.distributed import Distributed
from clray.models.herding import HerdedMemory, PriorityMemory, herd
from clray.streams.examples import TensorExamples
from clray.task import Task
from tests.methods.conftest import small_learner
from tests.methods.rehearsed import stream


def by_trial(features: Tensor, count: int) -> list[int]:
    """Each candidate's mean tried out, as it is written in the paper."""
    picked: list[int] = []
    for _ in range(min(count, len(features))):
        left = [i for i in range(len(features)) if i not in picked]
        gaps = [(features[[*picked, i]].mean(0) - features.mean(0)).norm() for i in left]
        picked.append(left[int(torch.stack(gaps).argmin())])
    return picked


def test_each_choice_brings_the_mean_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(23, 4, generator=generator, dtype=torch.float64)  # of any length
    assert herd(features, 9).tolist() == by_trial(features, 9)
    assert sorted(herd(features, 40).tolist()) == [*range(23)]
    assert herd(features[:0], 3).tolist() == []


def test_of_equals_the_first_is_chosen() -> None:
    """Mean (1/3, 2/3): both (0, 1) are nearer to it than (1, 0), which then mends the mean."""
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert herd(features, 3).tolist() == [0, 1, 2]


def test_lists_are_cut_from_the_end() -> None:
    memory = PriorityMemory(7, torch.Generator(), Distributed())
    content = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1)

    def kept() -> list[list[int]]:
        x, y, _ = memory.spread(40)
        return [x[y == label].flatten().tolist() for label in range(4)]

    memory.add(content[:12], torch.tensor([0, 1] * 6), 0)
    assert kept() == [[0, 2, 4, 6], [1, 3, 5], [], []]
    memory.add(content[20:32], torch.tensor([3, 2] * 6), 1)
    assert kept() == [[0, 2], [1, 3], [21, 23], [20]]
    assert len(memory) == 7
    assert sorted(memory.draw(9)[2].tolist()) == [0, 0, 0, 0, 1, 1, 1]
    held = memory.hold_out(0.5, seed=0)[0]
    assert len(held) == 3  # one of each list with two
    drawn = memory.draw(9)[0]
    assert not set(drawn.flatten().tolist()) & set(held.flatten().tolist())


def test_a_list_that_is_short_leaves_room() -> None:
    memory = PriorityMemory(6, torch.Generator(), Distributed())
    x = torch.zeros(5, 1, 1, 1)
    memory.add(x, torch.tensor([0, 1, 1, 1, 1]), 0)
    assert (memory.spread(6)[1] == 1).sum() == 3
    assert len(memory) == 4


def test_exemplars_are_herded_by_unit_features_in_evaluation_mode() -> None:
    task = stream()[0]
    learner = small_learner("finetune")
    learner.model.encoder.append(nn.Dropout(0.5))  # type: ignore[operator, union-attr]
    learner.train_mode(True)
    memory = HerdedMemory(12, learner.setup.generator, Distributed())
    memory.herd(learner, task)
    assert learner.model.encoder.training  # type: ignore[union-attr]
    learner.train_mode(False)
    (x, y), *_ = task.train.batches(80)
    kept, labels, _ = memory.spread(12)
    for label in (0, 1):
        own = x[y == label]
        best = by_trial(F.normalize(learner.features(own)).double(), 6)
        assert torch.equal(kept[labels == label], own[best])


def test_what_is_set_aside_is_not_chosen() -> None:
    learner = small_learner("finetune")
    images = torch.randint(256, (30, 1, 6, 6), dtype=torch.uint8)
    train = TensorExamples(images, torch.arange(30) % 3, torch.arange(30))
    task = Task(0, "0", (0, 1, 2), train, train).for_learning()
    aside = Aside(train, 0.4, 0, Distributed())
    memory = HerdedMemory(30, learner.setup.generator, Distributed())
    memory.herd(learner, task, aside)
    kept, labels, _ = memory.spread(30)
    assert len(kept) == 18
    assert not aside.holds(kept, labels).any()
