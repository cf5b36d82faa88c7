"""The knobs of a quadratic penalty along the curvature of old tasks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clray.learner import MethodConfig
from clray.models.curved_penalty import Accumulate
from clray.models.squared_loss import Noise
from clray.spec import STABILITY


class CurvatureConfig(MethodConfig):
    """What of the curvature of old tasks is kept, and how it is estimated."""

    past_weight: Annotated[float, STABILITY] = Field(1.0, ge=0)
    """What each old example's quadratic weighs against a new example's loss; 1 is what follows from
    the theory, and exact where its assumptions hold."""
    curvature: Literal["none", "diag", "kfac", "tkfac", "ekfac", "full"] = "tkfac"
    """What is kept of it: nothing; its diagonal; two Kronecker factors of each layer; these with
    the right trace, or with moments along their eigenvectors; or all (of tiny networks)."""
    accumulate: Accumulate = "factors"
    """Whether the factors of all tasks are averaged, or each task's are kept."""
    noise: Noise = "rademacher"
    """What a squared loss propagates back through the network: for each example random signs,
    normal numbers, or one vector for each class (exact, at as many times the cost)."""
    examples: Annotated[int | None, STABILITY] = Field(None, ge=1)
    """How many of a task's training examples, drawn at random, are used; none: all."""
    damping: Annotated[float, STABILITY] = Field(0.0, ge=0)
    """Further pull of every weight towards where the last task left it."""
