"""The knobs that supermask methods share; ``supermask_learner`` says what they do."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from clray.models.transfer import TransferConfig
from clray.parsing import refused
from clray.spec import PLASTICITY

DENSITY = 0.1
"""The released configurations'."""
CAP = 0.5
"""Of a layer's density by erdos-renyi, as in SupSup."""
Compat = Literal["shared-lr", "plateau", "density", "uncapped", "donors"]


class SupermaskConfig(TransferConfig):
    """Knobs of all supermask methods."""

    density: Annotated[float | None, PLASTICITY] = Field(None, gt=0, le=1)
    """Share of the weights that each task's mask keeps; none: what free_share says, else 0.1."""
    free_share: Annotated[float | None, PLASTICITY] = Field(None, gt=0, lt=1)
    """Sets the density by the number of tasks T: the share of the last task's mask that no mask
    before would have claimed if all were drawn at random, so 1 - free_share^(1 / (T - 1))."""
    density_rule: Literal["uniform", "erdos-renyi"] = "uniform"
    """The same share in every layer; or more of small layers, at most half of each, as SupSup does
    on images (its factor s follows from the density)."""
    begin: Literal["constant", "scaled", "given"] = "constant"
    """What the weights are before any task: sqrt(2 / fan_in) with the signs of the network's own;
    the same over the root of the layer's density, so that sparse layers do not shrink the signal
    (edge-popup's option, which neither SupSup nor ExSSNeT take); or the network's own."""
    state: Literal["best", "last"] = "best"
    """What a task ends with: the best state on the examples set aside, or the last."""
    held_out: float = Field(0.1, gt=0, lt=1)
    """Share of each task's training examples that is set aside to choose the best state."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does within a phase."""
    compat: tuple[Compat, ...] = ()
    """What is done as in the released code: one rate for both phases (that of the weights), its
    plateau rule, its count of the weights kept, no cap for erdos-renyi, its comparison of
    donors."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.density is not None and self.free_share is not None:
            raise refused("free_share", self.free_share, "none, where density is given")
        capped = self.density_rule == "erdos-renyi" and "uncapped" not in self.compat
        if capped and self.density is not None and self.density > CAP:
            raise refused("density", self.density, f"at most {CAP} with erdos-renyi")
        return self

    def density_over(self, num_tasks: int) -> float:
        """The density, on a stream of so many tasks."""
        if self.free_share is None:
            return DENSITY if self.density is None else self.density
        return float(1 - self.free_share ** (1 / max(1, num_tasks - 1)))


class SubnetworkConfig(SupermaskConfig):
    """Knobs of the methods that also train weights."""

    weight_share: Annotated[float, PLASTICITY] = Field(0.5, ge=0, lt=1)
    """Share of each task's steps that train weights, after those that search the mask."""
    weight_lr: Annotated[float, PLASTICITY] = Field(1e-3, gt=0)
    """Learning rate of the weights; that of the scores is ``optimizer.lr``."""
    update: Literal["compact", "masked-gradient"] = "compact"
    """What the optimizer of the weights holds: those that learn alone, or, as in the released code,
    all, with a gradient of 0 for the others, which then forget under weight decay."""
