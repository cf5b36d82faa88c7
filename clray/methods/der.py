"""Dark experience replay (DER): old examples keep the logits that the network once gave them.

Buzzega, Boschini, Porrello, Abati & Calderara 2020, "Dark Experience for General Continual
Learning" (arXiv 2004.07211).

The memory is a reservoir. Beside an example x stands z, the logits [D] that the network gave it
when it was offered, in the very step that learned it. From the second step on, the loss is

    mean cross-entropy on the batch + alpha * mean over a draw of |z - logits(x)|^2 / D,

with |.| over the units that count (``clray/models/dark_replay.py``, which ``derpp`` shares, says
which), as in the authors' code. The paper writes alpha * |z - logits|^2: its alpha is ours / D, so
that an alpha of 0.5 is 0.05 of the paper's with ten units. Too large a weight for the learning rate
makes the squared error itself diverge: with SGD at 0.1 on the digits below, 3 learns next to
nothing.

``fill: every-pass``, the default, offers each example in each pass, as the authors' code does, so
that logits come from all along the way; an example may then be kept more than once, each time with
other logits, and counts as often. With n passes over a task that is large beside the memory that is
rare (12 pairs among 500 of 8,000 examples and 5 passes); where it is not, the memory holds fewer
examples than it seems to, and a copy of what selection on the memory holds out may be replayed.
``online`` offers it in the first pass alone, with the logits of a network that hardly knows it, and
``after-task`` when the task ends, as Avalanche does. On Split-MNIST-10k (five tasks, class-
incremental, 5 epochs, 500 kept, lr 0.1, alpha 0.5, three seeds) average accuracy is 0.89, 0.76 and
0.92 with a fixed head, and 0.76, 0.49 and 0.89 with a growing one, where units of classes to come
are as they were initialised and say nothing: prefer ``protocol.head: fixed``, as published.

Differences:

- The batch and what was drawn go through the network together; there, one after the other, which
  differs behind batch normalisation. An image is kept as it came, and augmented afresh when drawn;
  z is of the augmented image, except with ``after-task``.
- In task-incremental streams the logits of the example's own task count alone, and the
  cross-entropy is over the task's own units; the authors learn as if it were class-incremental.
"""

from __future__ import annotations

from clray.models.dark_replay import DarkReplay, DarkReplayConfig


class Config(DarkReplayConfig):
    """Knobs of dark experience replay."""


class Der(DarkReplay):
    """Cross-entropy on the current batch, and old logits held on a draw from the memory."""

    config: Config
