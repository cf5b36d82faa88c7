"""Where the scores of a new task's mask begin: at random, or at what earlier tasks came to.

KNN-based knowledge transfer (KKT; Yadav & Bansal 2023, arXiv 2210.10209): each earlier task, a
donor, computes features of the new task's examples, and nearest neighbours guess labels by them.
The search begins from the scores of the donor whose guesses are best, if they beat chance. SupSup's
code (Wortsman et al. 2020, arXiv 2006.14769) begins from the mean of all scores, among others.

Only scores change, and no answer of an old task. A mask that begins as a donor's has nothing free
at first, and little after a short search: what speed it gains, the training of weights loses.

Differences from the authors' code, which ``compat: [donors]`` brings back: all donors see the same
examples, without augmentation; as many neighbours are asked as leave each class a say, since with
as many as there are examples every donor guesses the commonest label, and the first one wins; a
mean of several donors' scores is a new tensor, where theirs overwrites the first donor's. Chance is
that of the new task's own classes, the only ones guessed, as their text code has it; their images
count those of the largest task. Features are those of the encoder, before its last ReLU if it ends
in one. Nothing is drawn but the subset, from a seed of its own: a task that takes over nothing goes
as it would without transfer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from clray.errors import BadSpec
from clray.learner import MethodConfig, Setup
from clray.models.bitmask import Largest, Selection
from clray.models.donors import Donor, RandomMask, features_of, vote
from clray.models.subnetworks import Subnetworks
from clray.spec import derive_seed
from clray.task import Task

TOGETHER = 16
"""Donors whose features are held at once: each such group reads the subset once."""


class TransferConfig(MethodConfig):
    """Knobs of what a new task's scores begin from."""

    transfer: Literal[
        "none", "knn-best", "knn-always", "knn-all", "mean-scores", "mean-masks", "last"
    ] = "none"
    """Random scores; or those of the donor by which nearest neighbours guess best: only above the
    threshold (the paper's), in any case, or the mean of all donors above it; or the mean of all
    earlier scores, how often earlier masks chose a weight, or the task before."""
    transfer_source: Literal["scores", "mask"] = "scores"
    """What a donor gives (knn-*, last): its scores, which must then be kept, 32 bits a weight; or
    its mask, to which the largest of the random scores are moved."""
    neighbours: int = Field(10, ge=1)
    """How many guess; at most half of what a class has in memory on average, and 1 at least."""
    subset: float = Field(0.2, gt=0, le=1)
    """Share of the task's training examples that donors are compared on."""
    memory_share: float = Field(0.66, gt=0, lt=1)
    """Share of the subset that is the neighbours' memory; the rest is guessed."""
    threshold: Literal["chance", "z", "random"] = "chance"
    """What a donor must exceed (knn-best, knn-all): chance; ``z`` standard errors more; or, as
    well, the fresh random mask by ``margin``."""
    z: float = Field(2.0, ge=0)
    """Standard errors above chance (``z``, ``random``); the best of many donors needs more."""
    margin: float = Field(0.0, ge=0, lt=1)
    """Accuracy above that of the fresh random mask (``random``)."""
    blend: float = Field(1.0, gt=0, le=1)
    """Share of the donors in the first scores; the rest is random."""


class Transfer:
    """Chooses donors for a task, and makes its first scores of theirs.

    Args:
        config: see there.
        setup: of the learner.
        released: compare donors, and average them, as the authors' code does: each sees its own
            augmented examples (drawn from what augments all), as many neighbours are asked as
            there are, and the mean of several takes the place of the first one's scores.
    """

    def __init__(self, config: TransferConfig, setup: Setup, released: bool = False) -> None:
        self.config, self.setup, self.released = config, setup, released

    @property
    def needs_scores(self) -> bool:
        """Whether the scores of each task must be kept beside its mask."""
        mode = self.config.transfer
        if mode in ("none", "mean-masks"):
            return False
        return mode == "mean-scores" or self.config.transfer_source == "scores"

    @torch.no_grad()
    def initial_scores(
        self,
        subnetworks: Subnetworks,
        selections: dict[str, Selection],
        donors: list[str],
        task: Task,
        fresh: dict[str, Tensor],
        seed: int,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The scores that a task's search begins from; networks must be in evaluation mode.

        Args:
            subnetworks: go on learning afterwards.
            selections: how the new task's masks are made, by layer.
            donors: the tasks that were kept, by number.
            task: the new one.
            fresh: random scores, by layer.
            seed: says which examples are looked at.

        Returns:
            Scores by layer, ``fresh`` itself where nothing is taken over; and ``donor`` (a number,
            or None), ``donors`` (where several may give), and of nearest neighbours
            ``donor_accuracies``, ``threshold``, ``neighbours``, ``queries`` and, where it was asked
            for, ``random_accuracy``.

        Raises:
            BadSpec: nearest neighbours, for a task of a single example.
        """
        mode, facts = self.config.transfer, dict[str, Any]()
        chosen: Sequence[str] = [] if mode == "none" else donors
        if mode == "last":
            chosen = donors[-1:]
        elif mode.startswith("knn") and donors:
            facts = self._compare(subnetworks, selections, donors, task, fresh, seed)
            chosen = self._chosen(donors, facts)
        facts["donor"] = int(chosen[0]) if len(chosen) == 1 else None
        if mode in ("knn-all", "mean-scores", "mean-masks"):
            facts["donors"] = [int(donor) for donor in chosen]
        if not chosen:
            return fresh, facts
        scores = {}
        for name, layer in subnetworks.layers.items():
            if self.needs_scores:
                given = self._mean([layer.get_buffer(f"scores_{donor}") for donor in chosen])
            elif mode == "mean-masks" or len(chosen) > 1:
                times = torch.zeros_like(layer.weight, dtype=torch.int32)
                for donor in chosen:
                    times += layer.mask_of(donor)
                given = by_frequency(times, len(chosen), fresh[name], selections[name])
            else:
                given = moved_to(layer.mask_of(chosen[0]), fresh[name], selections[name])
            scores[name] = given
            if self.config.blend < 1:
                scores[name] = torch.lerp(fresh[name], given, self.config.blend)
        return scores, facts

    def _mean(self, scores: list[Tensor]) -> Tensor:
        """Of donors' scores, as a tensor of its own."""
        total = scores[0]
        if not (self.released and self.config.transfer == "knn-all"):
            total = total.clone()
        for other in scores[1:]:
            total += other
        total /= len(scores)
        return total.clone() if total is scores[0] else total

    # Which donors.

    def _chosen(self, donors: list[str], facts: dict[str, Any]) -> list[str]:
        accuracies, bar = facts["donor_accuracies"], facts["threshold"]
        above = [bar is None or accuracy > bar for accuracy in accuracies]
        if self.config.transfer == "knn-all":
            return [donor for donor, good in zip(donors, above, strict=True) if good]
        best = accuracies.index(max(accuracies))
        return [donors[best]] if above[best] else []

    def _compare(
        self,
        subnetworks: Subnetworks,
        selections: dict[str, Selection],
        donors: list[str],
        task: Task,
        fresh: dict[str, Tensor],
        seed: int,
    ) -> dict[str, Any]:
        """How well nearest neighbours guess by each donor's features, and what is enough."""
        config, total = self.config, len(task.train)
        if total < 2:
            raise BadSpec(f"method.transfer, for task {task.name!r}", total, "2 examples or more")
        wanted = max(2, math.floor(config.subset * total + 0.5))
        memory = min(wanted - 1, max(1, math.floor(config.memory_share * wanted + 0.5)))
        queries = wanted - memory
        most = memory if self.released else max(1, memory // (2 * len(task.classes)))
        neighbours, accuracies = min(config.neighbours, most), list[float]()
        control = config.threshold == "random" and config.transfer != "knn-always"
        views: list[Donor] = [Donor(subnetworks, donor) for donor in donors]
        if control:
            masks = {name: selections[name](scores) for name, scores in fresh.items()}
            views.append(RandomMask(subnetworks, donors[0], masks))
        together = 1 if self.released else TOGETHER
        for start in range(0, len(views), together):
            own = derive_seed(seed, "subset", start if self.released else "all")
            group = views[start : start + together]
            features, labels = features_of(
                group, subnetworks, self.setup, task, wanted, own, augmented=self.released
            )
            share = self.setup.distributed.slice(queries)
            rights = []
            for x in features:
                guessed = vote(x[:memory], labels[:memory], x[memory:][share], neighbours)
                rights.append((guessed == labels[memory:][share]).sum())
            counted = self.setup.distributed.sum(torch.stack(rights)).tolist()
            accuracies += [right / queries for right in counted]
        subnetworks.learn()
        facts: dict[str, Any] = {"neighbours": neighbours, "queries": queries, "threshold": None}
        if config.transfer != "knn-always":
            chance = 1 / len(task.classes)
            error = math.sqrt(chance * (1 - chance) / queries)
            facts["threshold"] = chance + (config.threshold != "chance") * config.z * error
        if control:
            facts["random_accuracy"] = accuracies.pop()
            least = facts["random_accuracy"] + config.margin
            facts["threshold"] = max(facts["threshold"], least)
        return {**facts, "donor_accuracies": accuracies}


# Scores made of masks.


def moved_to(mask: Tensor, fresh: Tensor, selection: Selection) -> Tensor:
    """Random scores, moved about such that they select exactly this mask.

    Args:
        mask: bool.
        fresh: float, of the same shape; the order within the mask and off it is theirs.
        selection: of as many weights as the mask has.
    """
    size, least = fresh.abs(), torch.finfo(fresh.dtype).tiny
    if not isinstance(selection, Largest):
        return torch.where(mask, size, -size.clamp_min(least))
    values, order = size.flatten().sort(descending=True, stable=True)
    inside = mask.flatten()[order]
    number = int(inside.sum())
    bar = values[number - 1].clamp_min(least)
    below = torch.nextafter(bar, torch.zeros_like(bar))
    values = torch.cat([values[:number].clamp_min(bar), values[number:].clamp_max(below)])
    moved = torch.empty_like(values)
    moved[torch.cat([order[inside], order[~inside]])] = values
    return torch.where(fresh < 0, -moved.view_as(fresh), moved.view_as(fresh))


def by_frequency(times: Tensor, total: int, fresh: Tensor, selection: Selection) -> Tensor:
    """Scores in the order of how often masks had a weight, and by random ones where that is equal;
    as large as these.

    Args:
        times: int, in how many masks each weight is.
        total: how many masks there are.
        fresh: float, of the same shape.
        selection: one by sign gets what most masks have.
    """
    top = fresh.abs().max()
    if not isinstance(selection, Largest):
        return ((2 * times - total) * top + fresh) / (total + 1)
    size = (times * top + fresh.abs()) / (total + 1)
    return torch.where(fresh < 0, -size, size)
