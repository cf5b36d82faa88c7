"""Joint training of a linearised network: what DLCFT reaches where it is exact, and its ceiling.

Each task is learned together with all tasks before it, by the rescaled squared loss and with the
ridge of ``dlcft`` (Shon et al. 2022, arXiv 2208.08112). The network goes on from the last task, and
each epoch is one pass over all examples so far.
"""

from __future__ import annotations

from typing import ClassVar

from clray.models.linearised_learner import LinearisedConfig, LinearisedLearner


class Config(LinearisedConfig):
    """Knobs of joint training of a linearised network: those of the network."""


class JointLinear(LinearisedLearner):
    """Squared loss on batches of the examples of all tasks so far."""

    cumulative: ClassVar[bool] = True

    config: Config
