"""A linear probe: one linear layer, trained in the stream on a frozen encoder's features.

The first baseline of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240);
without ``bias``, the second. Its step size must be searched downwards too: with large steps it
forgets, with tiny ones it hardly does and learns less. ``clray/models/probes.py`` says more, and
what differs from the released code.
"""

from __future__ import annotations

from clray.learner import Setup
from clray.models.probes import ProbeConfig, ProbeLearner


class Config(ProbeConfig):
    """Knobs of the linear probe."""


class LinearProbe(ProbeLearner):
    """Cross-entropy on the current batch, for one linear layer."""

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup, hidden=[])
