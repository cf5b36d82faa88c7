"""SGM: rehearsal that learns new classes without a dip on old ones, the stability gap.

Harun & Kanan 2024, "Overcoming the Stability Gap in Continual Learning" (TMLR; arXiv 2306.01904).

From the second task on, four things are added to rehearsal (``er``). A new class's output row
begins at the mean of its unit features; labels are softened by what the network answers; the
encoder learns by low-rank adapters, merged when the task ends; output rows of old classes are
frozen. The first two keep the loss of new classes small at first, the others plasticity. The
learning rate goes up and down once in a task. Each part is a knob, and ``er`` has them too, all
off: the control to compare with is ``er`` with the same ``schedule`` and ``peak``.

A step of the released code has 128 new examples and 128 of the first task, later 96 and 128 and 32
of the tasks between. Here: ``memory_batch: 128``, ``later_batch: 32`` (of which none are there in
the second task) and ``protocol.batch_size: 96`` in all. Its optimizer is AdamW, lr 0.001 (times
``peak``), weight decay 0.05, over 600 to 1,200 steps a task (``protocol.updates``).

Where it hurts:

- A network that was not pre-trained, or on the first classes alone: frozen hidden layers cannot
  make new features. ``lora: auto`` has no adapters where the encoder begins at random; what it was
  pre-trained on cannot be seen.
- Features that do not lie around zero, as behind a ReLU: class means drown old classes at once,
  even behind a layer normalisation if that did not learn with the encoder. It is measured on the
  memory, and the record's facts warn of it; ``new_rows: least-squares`` then, which is ours.
- A memory that holds nearly all: the dip is smaller, final accuracy slightly below rehearsal's.
- Networks of few linear layers or 1x1 convolutions: the rest is frozen with adapters.

Differences. The paper's text was not at hand; these are from the released code:

- The first task is learned as by ``er``; there, the network comes with it.
- The head grows: only classes seen so far compete. There all do from the start, which trains the
  biases of those to come down; ``new_bias: kept`` begins with what they then are, in place of the
  mean of the old ones.
- All tensors have one learning rate, as there in effect: its layer-wise decay is overwritten by its
  schedule. ``layer_decay`` does what was meant.
- Old rows stay to the bit; there weight decay shrinks them (``freeze_old: gradient``).
- Adapters are merged once, by name; there a library may do so, or not, when the network is
  evaluated.
- Each task has all its steps; there it ends with the shortest of its loaders. Draws are without
  repeats within a step.
- Classes without a right answer yet have chance as their mean answer, without a division by zero.
- Only classes that the task does not have are old: nothing is frozen in a stream whose tasks share
  classes, and no row is set.
- Rank 48, or a quarter of the narrowest layer; batch normalisation keeps its statistics while
  adapters learn. All layers of the encoder that learn are adapted; freeze the lower ones for the
  paper's, which are its first two stages.
- Images are augmented as the benchmark says; there not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from clray.errors import BadSpec
from clray.memory import Batch, Memory
from clray.models.first_task_memory import FirstTaskMemory
from clray.models.gap_mitigation_config import Freeze, Lora, NewRows
from clray.models.learning_schedule import Schedule
from clray.models.rehearsal import KINDS, Rehearsal, RehearsalConfig
from clray.spec import PLASTICITY


class Config(RehearsalConfig):
    """Knobs of SGM."""

    new_rows: NewRows = "class-means"
    """Where output rows of new classes begin: as they are; at the mean unit feature of their class,
    for features that lie around zero; or where they tell their classes best by least squares, for
    others, such as those behind a ReLU."""
    soft_targets: Literal["none", "old", "new", "both"] = "both"
    """The classes whose labels are softened by what the network itself answers."""
    lora: Lora = "auto"
    """Whether the encoder's linear layers and 1x1 convolutions learn by low-rank adapters, merged
    when the task ends, and all else in it is frozen; auto: where the encoder is pre-trained."""
    freeze_old: Freeze = "exact"
    """Whether output rows of old classes that the task does not have stay: exactly, or by a
    gradient of zero, so that weight decay still shrinks them (the released code)."""
    schedule: Schedule = "onecycle"
    """What the learning rate does within each task."""
    peak: Annotated[float, PLASTICITY] = Field(1.5, gt=0)
    """Highest learning rate, as a multiple of optimizer.lr."""
    later_batch: int | None = Field(None, ge=1)
    """Examples of later tasks drawn for each step besides; memory_batch are then the first task's
    alone, and the memory has a part for each (storage says what each part keeps). None: all are
    drawn alike."""
    base_memory: float = Field(0.8, gt=0, lt=1)
    """With later_batch, the share of the memory for the first task's examples."""


class Sgm(Rehearsal):
    """Rehearsal with all four parts."""

    config: Config

    def make_memory(self) -> Memory:
        """See ``Rehearsal.make_memory``; in two parts, where each is drawn from."""
        self.later_batch = self.config.later_batch
        if self.later_batch is None:
            return super().make_memory()
        setup, config = self.setup, self.config
        if setup.memory < 2:
            raise BadSpec("protocol.memory", setup.memory, "2 or more, with method.later_batch")
        kind, share = KINDS[config.storage], config.base_memory
        return FirstTaskMemory(setup.memory, share, kind, setup.generator, setup.distributed)

    def draws(self) -> Iterator[Batch]:
        """See ``Rehearsal.draws``."""
        if self.later_batch is None:
            yield from super().draws()
        else:
            memory: FirstTaskMemory = self.memory  # type: ignore[assignment]
            yield memory.draw_first(self.config.memory_batch or self.setup.batch_size)
            yield memory.draw_later(self.later_batch)
