"""Toy tasks of Gaussian clusters, and subnetworks that learn them without a learner around."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray import registry
from clray.distributed import Distributed
from clray.learner import Setup
from clray.models.bitmask import Largest, Selection, kept
from clray.models.classifier import Classifier
from clray.models.subnetworks import Subnetworks
from clray.spec import Component
from clray.streams.examples import TensorExamples
from clray.task import Task

CLASSES, CLUSTERS, WIDTH = 5, 20, 64


def clusters(centres: Tensor, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples [number, 64, 1, 1] around centres [20, 64], unit noise; labels are cluster mod 5."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randint(len(centres), (number,), generator=generator)
    x = centres[own] + torch.randn(number, WIDTH, generator=generator)
    return x[:, :, None, None], own % CLASSES


def as_task(x: Tensor, y: Tensor, index: int = 0) -> Task:
    """A task of these examples."""
    examples = TensorExamples(x, y, torch.arange(len(y)))
    return Task(index, str(index), tuple(range(CLASSES)), examples, examples)


def same(x: Tensor) -> Tensor:
    """No preparation, and no augmentation."""
    return x


def network(hidden: tuple[int, ...] = (96, 96), outputs: int = CLASSES) -> Classifier:
    """The registered mlp over 64 numbers."""
    component = Component(name="mlp", hidden=list(hidden))
    built = registry.configure("model", component).build("", (WIDTH, 1, 1), outputs)
    assert isinstance(built, Classifier)
    return built


def setup_for(model: nn.Module, **changes: object) -> Setup:
    """A setup around a network; the stream has as many classes as each of its tasks."""
    given: dict[str, object] = {
        "optimizer": torch.optim.Adam,
        "clip_norm": None,
        "scenario": "domain-incremental",
        "num_classes": CLASSES,
        "num_tasks": 5,
        "num_examples": 150,
        "largest_task": CLASSES,
        "image_shape": (WIDTH, 1, 1),
        "epochs": 1,
        "batch_size": 64,
        "memory": 0,
        "prepare": same,
        "augment": same,
        "generator": torch.Generator().manual_seed(0),
        "distributed": Distributed(),
        "device": torch.device("cpu"),
    }
    return Setup(model=model, **{**given, **changes})  # type: ignore[arg-type]


@dataclass
class Toy:
    """A network of subnetworks and how its tasks are learned.

    Attributes:
        model: becomes a network of masked layers.
        density: of each layer's masks.
        outputs: of the head.
        kept: names of the tasks that were learned.
    """

    model: Classifier
    density: float = 0.05
    outputs: int = CLASSES
    kept: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.subnetworks = Subnetworks(self.model, self.outputs, remembers_scores=True)
        self.selections: dict[str, Selection] = {
            name: Largest(kept(self.density, layer.weight.numel()))
            for name, layer in self.subnetworks.layers.items()
        }

    def search(self, x: Tensor, y: Tensor, steps: int, scores: dict[str, Tensor]) -> None:
        """Phase A, left open."""
        self.model.train()
        self._descend(self.subnetworks.search(scores, self.selections), 3e-2, x, y, steps)

    def learn(
        self, x: Tensor, y: Tensor, mask_steps: int, weight_steps: int, seed: int | None = None
    ) -> None:
        """Learn and keep a task."""
        name = str(len(self.kept))
        scores = self.subnetworks.draw(int(name) if seed is None else seed)
        self.search(x, y, mask_steps, scores)
        self.subnetworks.settle()
        if weight_steps:
            weights = self.subnetworks.train_weights(exclusive=True)
            self._descend(weights, 3e-3, x, y, weight_steps)
        self.subnetworks.keep(name, self.subnetworks.capture())
        self.kept.append(name)
        self.model.eval()

    def _descend(
        self, parameters: list[nn.Parameter], lr: float, x: Tensor, y: Tensor, steps: int
    ) -> None:
        optimizer = torch.optim.Adam(parameters, lr)
        generator = torch.Generator().manual_seed(steps)
        for _ in range(steps):
            rows = torch.randint(len(y), (64,), generator=generator)
            loss = F.cross_entropy(self.model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @torch.no_grad()
    def logits(self, name: str, x: Tensor) -> Tensor:
        """Of a kept task."""
        self.subnetworks.show(name)
        logits: Tensor = self.model.eval()(x)
        self.subnetworks.learn()
        return logits

    def state(self) -> dict[str, Tensor]:
        """All weights, masks, scores and statistics, copied."""
        return {name: value.clone() for name, value in self.model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit, and the same names."""
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def planted(seed: int) -> tuple[Toy, list[Tensor]]:
    """Four donors, whose centres (spread 2) lie in disjoint blocks of 16 numbers; and these."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    toy, all_centres = Toy(network()), []
    for block in range(4):
        centres = torch.zeros(CLUSTERS, WIDTH)
        centres[:, 16 * block : 16 * block + 16] = 2 * torch.randn(
            CLUSTERS, 16, generator=generator
        )
        all_centres.append(centres)
        x, y = clusters(centres, 1000, 100 * seed + block)
        toy.learn(x, y, 100, 50)
    return toy, all_centres
