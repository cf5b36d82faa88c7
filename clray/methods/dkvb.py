"""Discrete key-value bottleneck: a frozen encoder, frozen keys, and values that alone are learned.

Träuble, Goyal, Rahaman, Mozer, Kawaguchi, Bengio & Schölkopf 2023 (ICML; arXiv 2207.11240).

Features of the frozen encoder are projected C times; each projection selects the nearest of K keys,
so that an example becomes C small integers; the values of its keys, one logit per class, are
averaged over the codebooks. Keys are learned once, before anything else, without labels, and stay;
each step changes the values of the keys that its batch has selected, and no others. There is no
notion of a task: what begins or ends changes nothing.

Per visit a value moves by ``lr / (batch size * C)``. What matters is ``plasticity``,

    s = lr * epochs / (batch size * C) * training examples / K,

about the size of the final logits; every record says it. The published runs have s of 0.03 to 0.11:
softmax stays uniform there, and training adds up class counts, so that the order of examples, tasks
and epochs does not matter. ``values: counted`` is that limit, exact, in one pass over the data.
Large s (50 and more) gains on shuffled data and loses old tasks.

Differences:

- ``keys: clean`` by default: keys begin as examples of the first batch, and a replaced key brings
  its statistics with it; ``released`` is the authors' code (``clray/models/key_fit.py``).
- Keys are learned from the first task's examples by default; the paper takes another dataset, which
  ``key_source`` names. An address of the very stream that is learned shows the keys its later
  tasks, without labels; its validation and test examples are never among them.
- All of the stream's output units compete, as published, also where the protocol's head grows.
- ``vote: shares`` and ``log-odds`` are not in the paper. Nor does it train a linear decoder in the
  stream: by default it is drawn at random and stays; one that learns forgets.
- A step of a batch that is smaller than the batch size is smaller, so that every example weighs the
  same; the released code takes the batch's mean.
- Not built: codebook dropout, stochastic selection, positions that are not pooled.

With another optimizer than plain SGD (momentum, decay, Adam) values move that were not selected:
locality is lost, and with it the speed. Clipping gradients below sqrt(2 / C) costs the speed alone.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Coder, Learner, MethodConfig, Setup
from clray.models import codebook_source
from clray.models.bottleneck import Bottleneck, Vote, largest_gradient
from clray.models.codebook_coder import CodebookCoder
from clray.models.codebook_config import CodebookConfig
from clray.models.key_fit import fit_keys
from clray.models.value_table import ValueTable
from clray.spec import PLASTICITY, derive_seed
from clray.task import Task


class Config(CodebookConfig):
    """Knobs of the bottleneck; those of keys stand in ``clray/models/codebook_config.py``."""

    values: Literal["trained", "counted"] = "trained"
    """Whether values are learned by steps, or are the class counts of each key, from one pass."""
    plasticity: Annotated[float | None, PLASTICITY] = Field(None, gt=0)
    """The regime number s, which sets the learning rate of plain SGD (and is refused with any other
    optimizer); none: the optimizer's lr."""
    smoothing: Annotated[float, PLASTICITY] = Field(0.1, ge=0, lt=1)
    """Label smoothing of the cross-entropy."""
    value_spread: float = Field(0.0, ge=0)
    """Standard deviation of the values before training; 0, as published on images: all zero."""
    vote: Vote = "counts"
    """What counted values say: how many examples of each class; their share of the class; or the
    logarithm of their share of the key's, 0.1 added to each count."""
    decoder: Literal["voting", "linear"] = "voting"
    """Values are logits, or vectors from which a linear layer makes logits."""
    value_width: int = Field(64, ge=1)
    """Width of the values of a linear decoder."""
    decoder_learns: bool = False
    """Whether a linear decoder learns in the stream, which brings forgetting back."""
    mask_unused: bool = True
    """Whether, in evaluation, keys that no training example has selected are passed over. Only
    without it can trials read stored codes."""
    top: int = Field(1, ge=1)
    """How many nearest keys of each codebook are selected, once keys are learned."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.values == "counted" and self.decoder != "voting":
            raise ValueError("decoder: voting, since counted values are votes")
        if self.top > self.pairs:
            raise ValueError(f"top: at most {self.pairs}, as many as pairs")
        return self

    def pinned(self, encoder: str | None) -> Self:
        """See ``MethodConfig.pinned``."""
        if not codebook_source.is_address(self.key_source):
            return self
        source = codebook_source.pin(self.key_source, encoder)
        return self.model_copy(update={"key_source": source})


class Dkvb(Learner):
    """Learns the values of frozen keys."""

    config: Config
    frozen_encoder: ClassVar[bool] = True
    hands_over: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        self.knobs = config
        head: nn.Linear = self.model.head  # type: ignore[assignment]
        self.width = head.in_features
        seed = config.key_seed
        if seed is None:
            seed = int(torch.randint(2**62, (), generator=setup.generator))
        self.randomness = torch.Generator().manual_seed(derive_seed(seed, "keys"))
        codebooks = None if setup.coded_from else config.build(self.width, self.randomness)
        linear = config.decoder == "linear"
        width = config.value_width if linear else setup.num_classes
        values = (config.codebooks, config.pairs, width, config.value_spread, setup.generator)
        decoder: Tensor | None = None
        if linear:
            decoder = torch.randn(setup.num_classes, width, generator=setup.generator)
            decoder /= width**0.5
            if config.decoder_learns:
                decoder = nn.Parameter(decoder)
        counted = config.values == "counted"
        self.bottleneck = Bottleneck(
            codebooks,
            ValueTable(*values),
            decoder=decoder,
            mask_unused=config.mask_unused,
            top=config.top,
            vote=config.vote if counted else None,
        ).to(setup.device)
        self.model.head = self.bottleneck
        self.optimizer = setup.optimizer(self.bottleneck.parameters())
        if config.plasticity is not None and not self._is_plain:
            accepted = "none with this optimizer: s is that of sgd without momentum and decay"
            raise BadSpec("method.plasticity", config.plasticity, accepted)
        self.counted, self.counting = counted, True
        self.begun = setup.coded_from is not None
        self.found: dict[str, float] = {}

    @classmethod
    def coder(cls, config: MethodConfig) -> Coder | None:
        """Projections and keys."""
        assert isinstance(config, Config)
        return CodebookCoder(config, stored=not config.mask_unused and config.top == 1)

    def begin_task(self, task: Task) -> None:
        """Before anything is learned, and never again: learn the keys."""
        if not self.begun:
            self._learn_keys(task)
        self.begun = True

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Examples are counted once."""
        self.counting = epoch == 0

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss, of trained values."""
        if self.counted and not self.counting:
            return {}
        bottleneck, gather = self.bottleneck, self.distributed.gather
        codes = bottleneck.codes(x if self.setup.coded_from else self.features(x))
        everyones = gather(codes)
        bottleneck.note(everyones)
        if self.counted:
            bottleneck.count(everyones, gather(y))
            return {}
        rate, share = self._rate(), len(everyones) / self.setup.batch_size
        if rate is None:
            if self._is_plain:
                self.optimizer.param_groups[0]["lr"] = self._lr()
            loss = self._cross_entropy(bottleneck.decode(codes), y)
            self.step(loss * share)
            return {"loss": loss.detach()}
        with torch.no_grad():
            logits = bottleneck.decode(codes)
            loss = self._cross_entropy(logits, y)
            # The gradient in closed form: only the rows that were selected are touched.
            residual = logits.softmax(1).sub_(self._targets(y))
            if bottleneck.decoder is not None:
                residual = residual @ bottleneck.decoder
            bottleneck.table.descend(everyones, gather(residual), rate * share)
        return {"loss": loss}

    def end_task(self, task: Task) -> dict[str, Any]:
        """What the values have come to; nothing is changed."""
        used = float(self.bottleneck.used.float().mean())
        return {"plasticity": self._plasticity(), "used": used, **self.found}

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] for uint8 [B, C, H, W]; the same for all tasks."""
        logits: Tensor = self.bottleneck(x if self.setup.coded_from else self.features(x))
        return logits

    def footprint(self) -> dict[str, int]:
        """The model's; where codes are read, the keys that lie elsewhere as well."""
        kept, knobs = super().footprint(), self.knobs
        if self.setup.coded_from is None:
            return kept
        numbers = knobs.codebooks * knobs.pairs * knobs.key_width(self.setup.coded_from[0])
        return {**kept, "bytes": kept["bytes"] + 4 * numbers}

    # Keys.

    def _learn_keys(self, task: Task) -> None:
        """On every worker from the same examples; then as the first worker has them."""
        codebooks, knobs = self.bottleneck.codebooks, self.knobs
        assert codebooks is not None
        batches = codebook_source.passes(
            knobs,
            self.width,
            self.features,
            self.randomness,
            self.setup.device,
            task.train,
        )
        self.found = fit_keys(codebooks, knobs, batches, self.randomness)
        state = {k: v.cpu() for k, v in codebooks.state_dict().items()}
        codebooks.load_state_dict(self.distributed.broadcast(state))

    # Values.

    def _targets(self, y: Tensor) -> Tensor:
        smoothing, width = self.config.smoothing, self.setup.num_classes
        return F.one_hot(y, width).float().mul_(1 - smoothing).add_(smoothing / width)

    def _cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean over all workers' examples, over all output units of the stream."""
        losses = F.cross_entropy(logits, y, reduction="none", label_smoothing=self.config.smoothing)
        return self.distributed.mean(losses)

    def _rate(self) -> float | None:
        """The learning rate of a step of plain SGD on the values alone; None: any other step."""
        clip, bound = self.setup.clip_norm, largest_gradient(self.knobs.codebooks)
        fits = self.bottleneck.decoder is None and self.knobs.top == 1
        clipped = clip is not None and not (fits and clip >= bound)
        if not self._is_plain or clipped or isinstance(self.bottleneck.decoder, nn.Parameter):
            return None
        return self._lr()

    @property
    def _is_plain(self) -> bool:
        group = self.optimizer.param_groups[0]
        plain = isinstance(self.optimizer, torch.optim.SGD)
        return plain and not group["momentum"] and not group["weight_decay"]

    def _lr(self) -> float:
        if self.config.plasticity is None:
            return float(self.optimizer.param_groups[0]["lr"])
        return self.config.plasticity / self._plasticity_of(1.0)

    def _plasticity(self) -> float | None:
        """s; 0 of counts, its limit; None of optimizers that have no such number."""
        if self.counted:
            return 0.0
        return self._plasticity_of(self._lr()) if self._is_plain else None

    def _plasticity_of(self, lr: float) -> float:
        setup, knobs = self.setup, self.knobs
        return lr * setup.visits / (setup.batch_size * knobs.codebooks * knobs.pairs)
