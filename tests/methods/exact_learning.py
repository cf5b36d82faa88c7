"""Tasks that are learned to the very minimum, where what is learned is linear."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, jacrev

from clray.models.linearised_learner import LinearisedLearner
from clray.streams.examples import TensorExamples
from clray.task import Task

NUM_CLASSES = 4
SHAPE = (1, 2, 3)


def tasks_of(
    sizes: list[int], *, classes: list[tuple[int, ...]] | None = None, seed: int = 0
) -> list[Task]:
    """Random images around another mean in each task, with random labels of its classes."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for index, size in enumerate(sizes):
        own = tuple(range(NUM_CLASSES)) if classes is None else classes[index]
        centre = torch.randint(40, 200, SHAPE, generator=generator)
        noise = torch.randint(-40, 55, (size, *SHAPE), generator=generator)
        y = torch.tensor(own)[torch.randint(len(own), (size,), generator=generator)]
        part = TensorExamples((centre + noise).to(torch.uint8), y, torch.arange(size))
        found.append(Task(index, str(index), own, part, part).for_learning())
    return found


def joined(tasks: list[Task]) -> Task:
    """One task of all examples."""
    batches = [batch for task in tasks for batch in task.train.batches(len(task.train))]
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    classes = tuple(sorted({label for task in tasks for label in task.classes}))
    part = TensorExamples(x, y, torch.arange(len(y)))
    return Task(0, "all", classes, part, part).for_learning()


def learn(learner: LinearisedLearner, tasks: list[Task]) -> Tensor:
    """Learn one task after the other, each to the minimum; the steps [P] at the end."""
    for index, task in enumerate(tasks):
        begin(learner, tasks[: index + 1])
        solve(learner, task)
        learner.end_task(task)
    return steps(learner)


def begin(learner: LinearisedLearner, so_far: list[Task]) -> None:
    """Begin the last of these tasks, as the frame does."""
    compete = torch.zeros(NUM_CLASSES, dtype=torch.bool)
    seen = so_far if learner.setup.scenario == "class-incremental" else so_far[-1:]
    compete[[label for task in seen for label in task.classes]] = True
    learner.rivals[:] = compete
    learner.all_rivals = bool(compete.all())
    learner.begin_task(so_far[-1])


def steps(learner: LinearisedLearner) -> Tensor:
    """All that is learned, as one vector [P]."""
    return torch.cat([p.detach().reshape(-1) for p in _learned(learner).values()])


def move(learner: LinearisedLearner, to: Tensor) -> None:
    """Put the steps there."""
    own = list(_learned(learner).values())
    with torch.no_grad():
        for p, piece in zip(own, torch.split(to, [p.numel() for p in own]), strict=True):
            p.copy_(piece.view_as(p))


def loss_of(learner: LinearisedLearner, task: Task) -> Tensor:
    """The mean loss of a task at the steps as they are, 0-d and differentiable."""
    found, target, competing = _logits(learner, task)
    return ((found - target) * competing).square().sum(1).mean() / 2


def solve(learner: LinearisedLearner, task: Task) -> None:
    """Put a learner whose logits are linear where its objective on a task is least.

    The pull's gradient is linear too, so its second derivative is made of differences.
    """
    now = len(task.train)
    scale = _objective(learner, 1.0, now) - _objective(learner, 0.0, now)
    J, competing = _derivatives(learner, task), _logits(learner, task)[2]
    here, pulled, columns = steps(learner), _pull(learner, now), []
    for direction in torch.eye(len(here)):
        move(learner, here + direction)
        columns.append(_pull(learner, now) - pulled)
    hessian = scale / now * (J[competing].T @ J[competing]) + torch.stack(columns, 1)
    for _ in range(2):  # once more, for what rounding has left
        move(learner, here)
        logits, target, _ = _logits(learner, task)
        residual = ((logits.detach() - target) * competing)[..., None]
        gradient = scale / now * (J * residual).sum((0, 1)) + _pull(learner, now)
        here = here - torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd")[0][:, 0]
    move(learner, here)


def _learned(learner: LinearisedLearner) -> dict[str, Tensor]:
    return {name: p for name, p in learner.model.named_parameters() if p.requires_grad}


def _objective(learner: LinearisedLearner, loss: float, now: int) -> Tensor:
    return learner.objective(torch.tensor(loss), now)[0].detach()


def _pull(learner: LinearisedLearner, now: int) -> Tensor:
    """The gradient of what the objective adds to the loss, [P]."""
    value = learner.objective(torch.tensor(0.0), now)[0]
    own = list(_learned(learner).values())
    if not value.requires_grad:
        return torch.zeros(sum(p.numel() for p in own))
    found = torch.autograd.grad(value, own, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in found])


def _logits(learner: LinearisedLearner, task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and which ones count, each [N, C]."""
    ((x, y),) = task.train.batches(len(task.train))
    logits = learner.forward(x)
    target = torch.nn.functional.one_hot(y, logits.shape[1]) * learner.target_scale
    return logits, target, learner.competing(y)


def _derivatives(learner: LinearisedLearner, task: Task) -> Tensor:
    """[N, C, P]."""
    ((x, _),) = task.train.batches(len(task.train))
    prepared = learner.setup.prepare(x)

    def logits(weights: dict[str, Tensor]) -> Tensor:
        found: Tensor = functional_call(learner.model, weights, (prepared,))
        return found

    own = {name: p.detach() for name, p in _learned(learner).items()}
    return torch.cat([d.flatten(2) for d in jacrev(logits)(own).values()], 2)
