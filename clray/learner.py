"""The one interface that a method fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from clray.distributed import Distributed
from clray.events import Watch, ignore
from clray.spec import SCENARIOS
from clray.task import Task, cut


class MethodConfig(BaseModel):
    """The knobs of a method, each with a default, bounds and a docstring. Methods subclass it."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def pinned(self, encoder: str | None) -> Self:
        """These knobs with what they read, beside the stream, named by its content.

        Args:
            encoder: key of the encoder whose features the stream holds; None: it holds images.

        Raises:
            BadInput: data that are missing or do not fit.
        """
        return self


@dataclass(frozen=True)
class Setup:
    """All that the frame hands to a learner.

    Attributes:
        model: the network, on ``device``; float [B, C, H, W] in, logits [B, num_classes] out.
        optimizer: makes the protocol's optimizer over the parameters given.
        clip_norm: largest norm of the whole gradient, or None.
        scenario: one of ``clray.spec.SCENARIOS``.
        num_classes: output units over the whole stream.
        num_tasks: length of the stream.
        num_examples: to learn from, over the whole stream.
        largest_task: the most classes that a task has.
        image_shape: C, H, W of the stream's images.
        epochs: passes over each task.
        batch_size: examples per step, over all workers.
        memory: examples that may be kept from old tasks.
        prepare: uint8 [B, C, H, W] to the model's normalised float input.
        augment: uint8 to uint8, random, for training only.
        generator: the learner's own randomness, on the CPU, in step on all workers.
        distributed: the workers that share the trial.
        device: where data and model lie.
        coded_from: where examples are the codes int16 [B, C, 1, 1] of the method's own coder, the
            shape (D, 1, 1) of the features that they were made of.
        updates: steps on each task, in place of ``epochs``; None: as many as these take.
        first_updates: steps on the first task; None: as on the others.
        pretrained: whether the model's encoder begins with weights that were learned elsewhere.
    """

    model: nn.Module
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    clip_norm: float | None
    scenario: str
    num_classes: int
    num_tasks: int
    num_examples: int
    largest_task: int
    image_shape: tuple[int, int, int]
    epochs: int
    batch_size: int
    memory: int
    prepare: Callable[[Tensor], Tensor]
    augment: Callable[[Tensor], Tensor]
    generator: torch.Generator
    distributed: Distributed
    device: torch.device
    coded_from: tuple[int, int, int] | None = None
    updates: int | None = None
    first_updates: int | None = None
    pretrained: bool = False

    def num_updates(self, task: Task) -> int:
        """How many steps the task is learned for."""
        limit = self.updates
        if task.index == 0 and self.first_updates is not None:
            limit = self.first_updates
        return self.epochs * self._batches(task) if limit is None else limit

    def num_epochs(self, task: Task) -> int:
        """How many passes over its examples that takes; the last one may be cut short."""
        return -(-self.num_updates(task) // self._batches(task))

    def examples_seen(self, task: Task) -> int:
        """How many of its examples that passes over, repeats counted."""
        pieces = cut(len(task.train), self.batch_size)
        whole, rest = divmod(self.num_updates(task), len(pieces))
        return whole * len(task.train) + int(pieces[rest].start)

    @property
    def visits(self) -> int:
        """How many examples the whole stream passes over, repeats counted."""
        if self.updates is None:
            return self.epochs * self.num_examples
        return self.updates * self.batch_size * self.num_tasks

    def _batches(self, task: Task) -> int:
        return len(cut(len(task.train), self.batch_size))


class Coder(Protocol):
    """Makes codes of features, the same in every trial, so that they can be stored.

    A model's Config has these functions as well, for features of its frozen encoder.
    """

    def check(self, variant: str) -> None:
        """Refuse knobs with which codes would differ from trial to trial.

        Raises:
            BadInput: such ones.
        """

    def describe_encoder(self, variant: str) -> dict[str, Any] | None:
        """All that the codes depend on beside the features, as plain JSON with a ``name``; None:
        the trial as well."""

    def encoder_key(self, variant: str) -> str | None:
        """Hash of ``describe_encoder``, or None."""

    def build_encoder(
        self, variant: str, image_shape: tuple[int, int, int], watch: Watch = ignore
    ) -> nn.Module:
        """Features float [B, D, 1, 1] to codes int16 [B, C]; ``watch`` is told of progress.

        Raises:
            BadInput: features that do not fit.
        """


class Learner(ABC):
    """One method, learning one stream.

    A method is a file with a ``Config(MethodConfig)`` and one subclass of this; ``observe`` is all
    it must define. It is checkpointed whole: keep state in attributes, and nothing in closures,
    lambdas or globals.

    Attributes:
        rivals: bool [num_classes, num_classes] on the device, kept by the frame: row y holds the
            output units that compete with y in the training loss.
    """

    scenarios: ClassVar[frozenset[str]] = frozenset(SCENARIOS)
    """The scenarios that this method can serve."""
    cumulative: ClassVar[bool] = False
    """Whether each task's training examples are joined by those of all tasks before it."""
    uses_memory: ClassVar[bool] = False
    """Whether the protocol's memory must hold at least one example."""

    hands_over: ClassVar[bool] = True
    """Whether another method can go on with the network, in the middle of a stream."""

    learns_head_alone: ClassVar[bool] = True
    """Whether it can learn a task with the model's head alone, its encoder kept still."""

    plain: ClassVar[bool] = False
    """Whether this is plain fine-tuning, without a care for old tasks."""

    frozen_encoder: ClassVar[bool] = False
    """Whether the model's encoder must be frozen: the method learns from its features alone."""

    vision_transformer: ClassVar[bool] = False
    """Whether the encoder must be a vision transformer, on images: the method reaches inside it."""

    def __init__(self, config: MethodConfig, setup: Setup) -> None:
        self.config = config
        self.setup = setup
        self.model = setup.model
        self.distributed = setup.distributed
        self.optimizer = setup.optimizer(self.model.parameters())
        self.rivals = torch.ones(
            setup.num_classes, setup.num_classes, dtype=torch.bool, device=setup.device
        )
        self.all_rivals = True

    # What a method fills in.

    def begin_task(self, task: Task) -> None:
        """Called before the first epoch of a task."""

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Called before each pass; methods with phases switch here."""

    @abstractmethod
    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """Learn from one batch: uint8 [B, C, H, W] and int64 [B].

        Returns:
            0-d tensors by name, left on the device; ``loss`` is watched for divergence.
        """

    def end_task(self, task: Task) -> dict[str, Any] | None:
        """Called after the last epoch of a task; ``task.train`` may be read again.

        Returns:
            What a person may want to know of how the task was learned, as plain JSON, by name: it
            becomes the record's ``facts``.
        """
        return None

    @classmethod
    def independent_after_first(cls, config: MethodConfig) -> bool:
        """Whether, after the first task, no task's results depend on the others: a promise.

        Then a learner is, for a task t that is not the first, a function of the first task, of t
        and of how many tasks there are, wherever t stands and whatever else was learned; and its
        answers on a task, learned or not yet, never change but when that task is learned. The frame
        draws torch's and the setup's randomness anew for each task, learns each task once for all
        orders with the same first task, and checks the promise when it puts a stream together.

        Such a learner defines ``learned_of`` and ``adopt``, and tells tasks by name or classes,
        never by their index.
        """
        return False

    @classmethod
    def coder(cls, config: MethodConfig) -> Coder | None:
        """What makes codes of features, where these are all that the method needs of an example.

        Codes that are stored (``clray.streams.features``) are then read in place of the features.
        """
        return None

    def learned_of(self, task: Task) -> Any:
        """What another learner that has learned the same first task must ``adopt`` to answer for
        this later one as this learner does; torch can save it.

        Only asked where ``independent_after_first``, once the task has ended.
        """
        raise NotImplementedError(f"{type(self).__name__} learns no task apart from the others")

    def adopt(self, task: Task, learned: Any) -> None:
        """Take over what another learner says that it has ``learned_of`` a task, as if this one had
        learned it itself."""
        raise NotImplementedError(f"{type(self).__name__} learns no task apart from the others")

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] for uint8 [B, C, H, W].

        ``task`` is None unless the scenario gives its identity at test time. The frame masks the
        units that are not allowed.
        """
        return self.forward(x)

    def footprint(self) -> dict[str, int]:
        """What is kept between tasks: ``parameters`` (numbers), ``examples`` and ``bytes`` in all.

        A method that keeps more than the model adds to it.
        """
        parameters = sum(p.numel() for p in self.model.parameters())
        tensors = [*self.model.parameters(), *self.model.buffers()]
        num_bytes = sum(t.numel() * t.element_size() for t in tensors)
        return {"parameters": parameters, "examples": 0, "bytes": num_bytes}

    # What a method uses.

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of the model for uint8 [B, C, H, W], as they are."""
        logits: Tensor = self.model(self.setup.prepare(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Features [B, D] of the model's encoder for uint8 [B, C, H, W], without a gradient; where
        the stream is one of features, these as they are."""
        encoder: nn.Module = self.model.encoder  # type: ignore[assignment]
        found: Tensor = encoder(self.setup.prepare(x))
        return found

    def forward_augmented(self, x: Tensor) -> Tensor:
        """Like ``forward``, after the benchmark's training augmentation."""
        return self.forward(self.setup.augment(x))

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy over all workers' examples, among the units that compete with y."""
        if not self.all_rivals:
            logits = logits.masked_fill(~self.rivals[y], -torch.inf)
        if self.distributed.world == 1:
            return F.cross_entropy(logits, y)
        return self.distributed.mean(F.cross_entropy(logits, y, reduction="none"))

    def step(self, loss: Tensor, adjust: Callable[[], None] | None = None) -> None:
        """Backward, mean of gradients over workers, clipping, optimizer step.

        Args:
            loss: 0-d.
            adjust: changes gradients, in place, before they are clipped: by then they are the same
                on all workers, and so must the changes be.
        """
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.distributed.world > 1:
            self.distributed.average_gradients(self._optimized())
        if adjust is not None:
            adjust()
        if self.setup.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._optimized(), self.setup.clip_norm)
        self.optimizer.step()

    def _optimized(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    # What the frame calls.

    def train_mode(self, training: bool) -> None:
        """Put every network of the learner in training or evaluation mode."""
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.train(training)
