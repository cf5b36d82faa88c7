"""Supermasks in superposition: a mask for each task over one network of random weights.

Wortsman et al. 2020 (arXiv 2006.14769), with the mask search of edge-popup (Ramanujan et al. 2020,
arXiv 1911.13299): the weights, signed constants, never change; each task searches a mask of its own
by scores, and nothing is forgotten. ``clray/models/supermask_learner.py`` says how a task goes.

Where the task is given at test time (task-incremental), its mask answers. Where it is not, the task
of each group of examples is inferred first, on networks without batch normalisation: all masks are
superposed with equal weights, and the mask whose greater weight would make the answers surest is
taken (one-shot), or half of the masks are left out again and again (binary). Then its mask answers,
in class-incremental streams on its own classes. A group's examples must be of one task.

Differences: the paper keeps masks in a sparse format and its code keeps the scores; here a mask is
one bit a weight. Its threshold masks (of MNIST) are ``selection: threshold``, its decay of scores
is ``optimizer.weight_decay``. Tasks that are not told apart while training (its scenario NNs) are
not served.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from clray.errors import BadSpec
from clray.learner import Setup
from clray.models.bitmask import NotNegative, Selection
from clray.models.supermask_config import SupermaskConfig
from clray.models.supermask_learner import SupermaskLearner
from clray.models.task_inference import infer_task
from clray.parsing import refused
from clray.task import Task


class Config(SupermaskConfig):
    """Knobs of supermasks in superposition."""

    selection: Literal["top-k", "threshold"] = "top-k"
    """Keep the weights with the largest scores, as many as the density says; or those whose score
    is not negative, about half."""
    inference: Literal["one-shot", "binary"] = "one-shot"
    """How the task is found where it is not given."""
    evidence: Literal["entropy", "superfluous"] = "entropy"
    """What a task is found by: how sure the answers are, or how little the outputs say that no
    class uses (``outputs`` must leave some)."""
    together: int = Field(128, ge=1)
    """Examples that are taken to be of one task where it is not given."""
    outputs: int | None = Field(None, ge=1)
    """Units of the head, at least as many as the largest task has classes; none: just so many. The
    paper takes 100 to 500 on MNIST where the task is inferred."""

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        if self.evidence == "superfluous" and self.outputs is None:
            raise refused("outputs", None, "more than a task has classes, for superfluous")
        if self.selection == "threshold":
            scaled = self.begin if self.begin == "scaled" else None
            unused = {"density": self.density, "free_share": self.free_share, "begin": scaled}
            for name, value in unused.items():
                if value is not None:
                    raise refused(name, value, "none, with threshold: about half is kept")
        return self


class SupSup(SupermaskLearner):
    """Searches a mask for each task over weights that stay random."""

    config: Config
    knobs: Config
    scenarios: ClassVar[frozenset[str]] = frozenset(
        {"task-incremental", "class-incremental", "domain-incremental"}
    )

    def __init__(self, config: Config, setup: Setup) -> None:
        least = setup.largest_task
        if config.outputs is not None and config.outputs < least:
            raise BadSpec("method.outputs", config.outputs, f"{least} or more, one for each class")
        super().__init__(config, setup, config.outputs)
        if setup.scenario != "task-incremental":
            if self.subnetworks.norms:
                accepted = "task-incremental, or a network without batch normalisation: statistics "
                accepted += "of superposed tasks mean nothing"
                raise BadSpec("benchmark.scenario, for method supsup", setup.scenario, accepted)
            if config.evidence == "superfluous" and (config.outputs or least) == least:
                raise BadSpec(
                    "method.outputs", config.outputs, f"more than {least}, for superfluous"
                )

    def _selections(self) -> dict[str, Selection]:
        if self.knobs.selection == "threshold":
            return {name: NotNegative() for name in self.subnetworks.layers}
        return super()._selections()

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] of the task's subnetwork, or of the one that is inferred."""
        if task is not None:
            return super().predict(x, task)
        if not self.units:
            units = torch.arange(self.setup.largest_task, device=x.device)
            return self.on_units(self.forward(x), units)
        groups = torch.split(x, self.knobs.together)
        return torch.cat([self._infer_and_answer(group) for group in groups])

    def _infer_and_answer(self, x: Tensor) -> Tensor:
        inputs, indices = self.setup.prepare(x), list(self.units)
        place = infer_task(
            self.subnetworks,
            [str(index) for index in indices],
            lambda: self.model(inputs),
            self.knobs.inference,
            self.knobs.evidence,
            real=self.setup.largest_task,
        )
        self.subnetworks.show(str(indices[place]))
        return self.on_units(self.model(inputs), self.units[indices[place]])
