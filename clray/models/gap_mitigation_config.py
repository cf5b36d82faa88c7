"""The knobs against the stability gap, which replaying methods share: all off here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from clray.learner import MethodConfig
from clray.models.class_mean_rows import NewBias
from clray.models.learning_schedule import Schedule
from clray.spec import PLASTICITY

Lora = Literal["auto", "on", "off"]
Freeze = Literal["exact", "gradient", "none"]
NewRows = Literal["random", "class-means", "least-squares"]


class MitigationConfig(MethodConfig):
    """What is done against the stability gap, from the second task on; ``clray.models.``
    ``gap_mitigation`` does it."""

    new_rows: NewRows = "random"
    """Where output rows of new classes begin: as they are; at the mean unit feature of their class,
    for features that lie around zero; or where they tell their classes best by least squares, for
    others, such as those behind a ReLU."""
    new_bias: NewBias = "mean"
    """With class-means, the biases of new classes: the mean of the old classes', or kept as they
    are."""
    soft_targets: Literal["none", "old", "new", "both"] = "none"
    """The classes whose labels are softened by what the network itself answers."""
    prefill: bool = False
    """Whether the soft targets of old classes begin with what is answered to all of the memory, in
    place of chance."""
    lora: Lora = "off"
    """Whether the encoder's linear layers and 1x1 convolutions learn by low-rank adapters, merged
    when the task ends, and all else in it is frozen; auto: where the encoder is pre-trained."""
    lora_rank: int | None = Field(None, ge=1)
    """Rank of the adapters; none: 48, or a quarter of the narrowest adapted layer if that is
    less."""
    lora_alpha: float = Field(1.0, gt=0)
    """The adapters' product is scaled by this over the rank."""
    freeze_old: Freeze = "none"
    """Whether output rows of old classes that the task does not have stay: exactly, or by a
    gradient of zero, so that weight decay still shrinks them (the released code)."""
    schedule: Schedule = "constant"
    """What the learning rate does within each task."""
    peak: Annotated[float, PLASTICITY] = Field(1.0, gt=0)
    """Highest learning rate, as a multiple of optimizer.lr."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Share of the learning rate that each tensor has of the next one's, from the last one
    backwards; 1: all have the same."""
