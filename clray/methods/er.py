"""Experience replay: each batch is learned together with examples drawn from a memory.

Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning" (arXiv 1902.10486).

The loss is the mean cross-entropy over the current batch and what was drawn, taken together.

Differences:

- ``fill: after-task``, the default, offers a task's examples to the memory when the task ends, as
  Avalanche's Replay does, so that all that is replayed is old; it reads the task once more.
  ``online`` is the paper's: each batch is offered once it was learned, after the draw, so that no
  example stands twice in a step. With several epochs (the paper has one), that is done in the
  first only, so that nothing is kept twice. On five tasks of two digits each (8,000 examples, 5
  epochs, 500 kept), ``after-task`` is 1 to 3 points more accurate.
- The paper draws as many examples as the batch holds; here their number is a knob.
- An image is kept as it came, and augmented afresh whenever it is drawn.
- What ``sgm`` does against the stability gap can be had here one by one, and is off: each of its
  parts, and its learning rate, which the comparison with it needs as a control.
"""

from __future__ import annotations

from clray.models.rehearsal import Rehearsal, RehearsalConfig


class Config(RehearsalConfig):
    """Knobs of experience replay."""


class Er(Rehearsal):
    """Mean cross-entropy over the current batch and a draw from the memory."""

    config: Config
