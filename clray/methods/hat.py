"""Hard attention to the task: each task learns which units it uses, and those stay for it.

Serrà, Surís, Miron & Karatzoglou 2018 (arXiv 1801.01423), task-incremental. Behind each hidden
layer's ReLU, unit i is multiplied by a gate a_i = sigmoid(s * e_i), where the embedding e of the
task learns along with the weights. Within each pass, s rises from 1 / max_scale to max_scale with
the batch b of B,

    s = 1 / max_scale + (max_scale - 1 / max_scale) * (b - 1) / (B - 1),

so that gates learn while it is small and are all but 0 or 1 at the end. With A_i, the most that any
earlier task attends to a unit, the loss is

    mean cross-entropy + sparsity * sum_i a_i * (1 - A_i) / sum_i (1 - A_i)

over the units of all layers, and the gradient of a weight from unit j to unit i is multiplied by
1 - min(A_i, A_j); that of a bias by 1 - A_i. The gradient of an embedding is multiplied by

    max_scale / s * (cosh(s * e) + 1) / (cosh(e) + 1),        s * e within +-50,

what it would be at s = 1, times max_scale; after each step e is kept within +-6. Each task has rows
of the head of its own. The paper clips gradients at a norm of 10,000 (``optimizer.clip_norm``).

Differences: the paper answers with gates at s = max_scale, which are not quite 0 or 1, and protects
what they attend to as far as they do (``gates: soft``): what is learned later leaks into earlier
answers by that much, and weight decay moves what has no gradient. By default a task keeps a 0 or 1
for each unit, e > 0, and weights with an A of 1 at both ends stay to the bit, so that nothing is
forgotten. On five splits and ten permutations of 8,000 digits (SGD at 0.1, five passes) this costs
nothing: both reach 0.987 and 0.874. At a max_scale of 100, ten permutations give soft gates 0.870
and hard ones 0.869.

In the authors' code s follows the examples and does not quite reach max_scale; its network has no
batch normalisation, where here a task keeps statistics of its own, and scales and shifts are
conditioned like biases; its learning rate falls with the loss on validation examples. A last pass
that is cut short goes through all of s. The optimizer begins afresh with each task, as theirs does.
A task that was not learned is answered by the latest one's gates.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from clray.errors import BadSpec
from clray.learner import Learner, MethodConfig, Setup
from clray.models.frozen_rows import close_rows, open_rows
from clray.models.unit_gates import GatedChain
from clray.spec import PLASTICITY
from clray.task import Task, cut

COSH_LIMIT, EMBEDDING_LIMIT = 50.0, 6.0
"""Of what the compensation takes the hyperbolic cosine, and of embeddings; as published."""


class Config(MethodConfig):
    """Knobs of hard attention to the task."""

    sparsity: Annotated[float, PLASTICITY] = Field(0.75, ge=0)
    """Weight of the mean opening of units that no earlier task uses (c in the paper), against a
    mean cross-entropy of 1: the larger it is, the fewer units a task takes."""
    max_scale: float = Field(400.0, ge=1)
    """What embeddings are multiplied with at the end of a pass (s_max in the paper)."""
    gates: Literal["hard", "soft"] = "hard"
    """Whether a task keeps 0 or 1 for each unit, and nothing is forgotten; or, as published, how
    far each is open at ``max_scale``."""


class HAT(Learner):
    """Cross-entropy through the task's gates, and a penalty for opening them."""

    config: Config
    scenarios: ClassVar[frozenset[str]] = frozenset({"task-incremental"})
    hands_over: ClassVar[bool] = False
    learns_head_alone: ClassVar[bool] = False

    def __init__(self, config: Config, setup: Setup) -> None:
        super().__init__(config, setup)
        if setup.first_updates == 0:
            raise BadSpec("protocol.first_updates", 0, "1 or more, for hat: gates must be learned")
        self.max_scale = config.max_scale
        self.chain = GatedChain(self.model.get_submodule("encoder"), config.gates == "hard")
        self.learning: str | None = None
        self.batch, self.num_batches, self.scale = 0, 1, 1.0
        self._rest()

    def begin_task(self, task: Task) -> None:
        """Draw embeddings, and let the task's rows of the head learn."""
        self.learning = str(task.index)
        open_rows(self.model, task.classes)
        head = self.model.get_submodule("head").parameters()
        learned = self.chain.begin(self.setup.generator)
        self.optimizer = self.setup.optimizer([*learned, *head])

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Begin with gates that are neither open nor closed again."""
        whole = len(cut(len(task.train), self.setup.batch_size))
        left = self.setup.num_updates(task) - epoch * whole
        self.batch, self.num_batches = 0, min(whole, left)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step on uint8 [B, C, H, W] and int64 [B]; returns the loss and its penalty."""
        self.scale = self.scale_of(self.batch, self.num_batches)
        self.chain.learn()
        self.chain.set_scale(self.scale)
        loss = self.cross_entropy(self.forward_augmented(x), y)
        penalty = self.config.sparsity * self.chain.usage()
        loss = loss + penalty
        self.step(loss, self._adjust)
        self.chain.hold()
        with torch.no_grad():
            for embedding in self.chain.embeddings:
                embedding.clamp_(-EMBEDDING_LIMIT, EMBEDDING_LIMIT)
        self.batch += 1
        return {"loss": loss.detach(), "penalty": penalty.detach()}

    def scale_of(self, batch: int, num_batches: int) -> float:
        """s of a batch, counted from 0; of a pass of one batch, the last."""
        share = min(1.0, batch / (num_batches - 1)) if num_batches > 1 else 1.0
        return 1 / self.max_scale + (self.max_scale - 1 / self.max_scale) * share

    def _adjust(self) -> None:
        self.chain.condition()
        for embedding in self.chain.embeddings:
            if embedding.grad is not None:
                embedding.grad.mul_(compensation(embedding.detach(), self.scale, self.max_scale))

    def end_task(self, task: Task) -> dict[str, Any]:
        """Keep the task's gates.

        Returns:
            ``density`` (mean opening of units to the task) and ``free_share`` (of the units, what
            no task attends to yet).
        """
        self.chain.keep(str(task.index), self.max_scale)
        close_rows(self.model)
        self.learning = None
        self._rest()
        opened = torch.cat([gate.kept(str(task.index)) for gate in self.chain.gates])
        attended = torch.cat([gate.attended for gate in self.chain.gates])
        return {"density": float(opened.mean()), "free_share": float(1 - attended.mean())}

    def predict(self, x: Tensor, task: Task | None) -> Tensor:
        """Logits [B, num_classes] through the task's gates."""
        assert task is not None
        if str(task.index) in self.chain.learned:
            self.chain.show(str(task.index))
        elif self.learning is not None:
            self.chain.show_learning(self.max_scale)
        elif self.chain.learned:
            self.chain.show(self.chain.learned[-1])
        return self.forward(x)

    def footprint(self) -> dict[str, int]:
        """The model's; soft gates are numbers that belong to it."""
        kept = super().footprint()
        if self.chain.hard:
            return kept
        units = sum(gate.num_units for gate in self.chain.gates)
        return {**kept, "parameters": kept["parameters"] + units * len(self.chain.learned)}

    def _rest(self) -> None:
        self.optimizer = self.setup.optimizer([nn.Parameter(torch.empty(0))])


def compensation(embedding: Tensor, scale: float, max_scale: float) -> Tensor:
    """What the gradient of an embedding, float [units], is multiplied with."""
    steep = torch.cosh((scale * embedding).clamp(-COSH_LIMIT, COSH_LIMIT)) + 1
    return max_scale / scale * steep / (torch.cosh(embedding) + 1)
