"""Dark experience replay++ (DER++): as ``der``, with the labels of a second draw besides.

Buzzega, Boschini, Porrello, Abati & Calderara 2020, "Dark Experience for General Continual
Learning" (arXiv 2004.07211).

To the loss of ``der``, whose file says all that both share, comes

    beta * mean cross-entropy on a second draw from the memory, independent of the first,

of as many examples, among the units that compete with each label (``protocol.head``). With beta = 0
it is ``der``; with alpha = 0, replay whose old and new examples have a mean each.

On Split-MNIST-10k as in ``der``, but with beta 0.5, average accuracy is 0.90, 0.88 and 0.91 with
``fill`` every-pass, online and after-task and a fixed head, and 0.87, 0.85 and 0.90 with a growing
one: labels make up for most of what logits cannot say there.

Differences: those of ``der``. Avalanche's weighs logits and labels of one and the same draw.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from clray.models.dark_replay import DarkReplay, DarkReplayConfig
from clray.spec import PLASTICITY, STABILITY


class Config(DarkReplayConfig):
    """Knobs of dark experience replay++."""

    beta: Annotated[float, STABILITY, PLASTICITY] = Field(0.5, ge=0)
    """Weight of the mean cross-entropy on the second draw; 0: there is none."""


class Derpp(DarkReplay):
    """Dark experience replay, and cross-entropy on a second draw."""

    config: Config

    @property
    def beta(self) -> float:
        """Weight of the labels of a second draw; 0: there is none."""
        return self.config.beta
