"""A two-layer probe: a hidden layer of ReLU, trained in the stream on a frozen encoder's features.

The third baseline of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240),
with 128 units. Its step size must be searched downwards too; ``clray/models/probes.py`` says why,
and what differs from the released code.
"""

from __future__ import annotations

from pydantic import Field

from clray.learner import Setup
from clray.models.probes import ProbeConfig, ProbeLearner


class Config(ProbeConfig):
    """Knobs of the two-layer probe."""

    width: int = Field(128, ge=1)
    """Hidden units."""


class TwoLayerProbe(ProbeLearner):
    """Cross-entropy on the current batch, for two layers."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup, hidden=[config.width])
