"""How earlier tasks' subnetworks see a new task's examples, and what neighbours guess by that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clray.learner import Setup
from clray.models.classifier import Classifier
from clray.models.masked import on_mask
from clray.models.subnetworks import Subnetworks
from clray.task import Task

BATCH = 512
"""Examples at once."""
DISTANCES = 2**23
"""Distances that are held at once."""


class Donor:
    """Within it, a kept task's subnetwork answers.

    Args:
        subnetworks: all tasks'; ``learn`` ends it.
        name: of the task.
    """

    def __init__(self, subnetworks: Subnetworks, name: str) -> None:
        self.subnetworks, self.name = subnetworks, name

    def __enter__(self) -> None:
        self.subnetworks.show(self.name)

    def __exit__(self, *raised: object) -> None:
        pass  # the next one shows itself


class RandomMask(Donor):
    """Within it, a random mask answers, with normalisations that have seen nothing.

    Args:
        subnetworks: go on learning afterwards.
        name: of some kept task.
        masks: bool, by layer.
    """

    def __init__(self, subnetworks: Subnetworks, name: str, masks: dict[str, Tensor]) -> None:
        super().__init__(subnetworks, name)
        self.masks = masks

    def __enter__(self) -> None:
        super().__enter__()  # what is being learned is set aside, until ``learn``
        for name, layer in self.subnetworks.layers.items():
            layer.put_together = on_mask(layer.weight.detach(), self.masks[name])
        for norm in self.subnetworks.norms.values():
            norm.reset_running_stats()

    def __exit__(self, *raised: object) -> None:
        self.subnetworks.learn()


def features_of(
    donors: Sequence[Donor],
    subnetworks: Subnetworks,
    setup: Setup,
    task: Task,
    wanted: int,
    seed: int,
    augmented: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """What each donor's encoder makes of the same examples, drawn by a seed.

    What donors share, such as a frozen encoder, is computed once for all of them.

    Args:
        donors: of ``subnetworks``, whose network is in evaluation mode.
        subnetworks: afterwards, ``learn`` is due.
        setup: of the learner.
        task: has at least ``wanted`` training examples.
        wanted: how many are taken.
        seed: says which, and their order.
        augmented: as for training, from the training's own randomness.

    Returns:
        Float [wanted, D] of each donor, and labels int64 [wanted] as places among the task's
        classes: all workers' examples, in the same order on each.
    """
    workers = setup.distributed
    same, own = split_encoder(setup.model, subnetworks)
    parts: list[list[Tensor]] = [[] for _ in donors]
    labels, numbers, seen = [], [], 0
    batches = task.train.batches(min(BATCH, wanted), seed, rank=workers.rank, world=workers.world)
    for number, (x, y) in enumerate(batches):
        inputs = same(setup.prepare(setup.augment(x) if augmented else x))
        for part, donor in zip(parts, donors, strict=True):
            with donor:
                part.append(own(inputs).flatten(1))
        labels.append(y)
        numbers.append(torch.full_like(y, number))
        seen += int(workers.sum(torch.tensor(len(y), device=y.device)))
        if seen >= wanted:
            break
    order = workers.gather(torch.cat(numbers)).argsort(stable=True)[:wanted]
    units = torch.tensor(sorted(task.classes), device=order.device)
    places = torch.searchsorted(units, workers.gather(torch.cat(labels))[order])
    return [workers.gather(torch.cat(part))[order] for part in parts], places


def split_encoder(model: nn.Module, subnetworks: Subnetworks) -> tuple[nn.Module, nn.Module]:
    """A classifier's encoder in two: what is the same for all tasks, such as a frozen encoder, and
    what is each task's own, up to the values that a last ReLU would cut."""
    assert isinstance(model, Classifier)
    encoder = model.encoder
    plain = isinstance(encoder, nn.Sequential) and type(encoder).forward is nn.Sequential.forward
    modules = list(encoder.children()) if plain else [encoder]
    while modules and isinstance(modules[-1], nn.ReLU | nn.Dropout):
        modules.pop()
    differing = {*map(id, subnetworks.layers.values()), *map(id, subnetworks.norms.values())}
    differs = [any(id(inner) in differing for inner in module.modules()) for module in modules]
    first = differs.index(True) if True in differs else len(modules)
    return nn.Sequential(*modules[:first]), nn.Sequential(*modules[first:])


def vote(memory: Tensor, labels: Tensor, queries: Tensor, neighbours: int) -> Tensor:
    """What the nearest neighbours say, one vote each; of equal counts the lowest label.

    Args:
        memory: float [M, D].
        labels: int64 [M], from 0.
        queries: float [Q, D].
        neighbours: 1 to M; the nearest by Euclidean distance.

    Returns:
        int64 [Q].
    """
    centre = memory.mean(0)  # far from it, products of floats lose small distances
    memory, classes = memory - centre, int(labels.max()) + 1
    guessed = []
    for part in torch.split(queries - centre, max(1, DISTANCES // len(memory))):
        distances = torch.cdist(part, memory, compute_mode="use_mm_for_euclid_dist")
        nearest = distances.topk(neighbours, largest=False, sorted=False).indices
        votes = labels.new_zeros(len(part), classes)
        votes.scatter_add_(1, labels[nearest], torch.ones_like(nearest))
        guessed.append(votes.argmax(1))
    return torch.cat(guessed)
