"""What is lost when the rectifiers of a pre-trained network leak: it was not trained so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.learner import Setup
from clray.models.folding import Leak
from clray.models.task_sample import Shares
from clray.task import Task

EXAMPLES = 2000
"""That are looked at, at most: half to fit a probe, half to test it."""
RIDGE = 1e-3
"""Of the probe, relative to the mean square of a feature."""


@torch.no_grad()
def leak_cost(encoder: nn.Module, task: Task, setup: Setup) -> dict[str, float]:
    """Features of a task's training examples without the leak and with it.

    Args:
        encoder: in evaluation mode, its rectifiers replaced (``clray/models/folding.py``).

    Returns:
        ``features_moved``, the distance relative to the features' length; ``probe_without_leak``
        and ``probe_with_leak``, the accuracy in [0, 1] of ridge regression onto the task's classes,
        fitted on half of the examples, on the other half.
    """
    without, leaking, labels = [], [], []
    for share in Shares(task, EXAMPLES, setup):
        x = setup.prepare(share.x)
        with _tight(encoder):
            without.append(setup.distributed.gather(encoder(x)))
        leaking.append(setup.distributed.gather(encoder(x)))
        labels.append(setup.distributed.gather(share.y))
    before, after, y = torch.cat(without), torch.cat(leaking), torch.cat(labels)
    return {
        "features_moved": float((after - before).norm() / before.norm()),
        "probe_without_leak": probe_accuracy(before, y),
        "probe_with_leak": probe_accuracy(after, y),
    }


def probe_accuracy(features: Tensor, y: Tensor) -> float:
    """Of ridge regression onto the classes: features [N, D], int64 [N]; every second example is
    held out, and it is their share that is right."""
    classes, target = torch.unique(y, return_inverse=True)
    x = F.pad(features.double(), (0, 1), value=1.0)
    fitted, held_out = x[::2], x[1::2]
    if not len(held_out):
        return 1.0
    products = fitted.T @ fitted
    products.diagonal().add_(RIDGE * products.diagonal().mean())
    wanted = fitted.T @ F.one_hot(target[::2], len(classes)).double()
    found = (held_out @ torch.linalg.solve(products, wanted)).argmax(1)
    return float((found == target[1::2]).double().mean())


@contextmanager
def _tight(network: nn.Module) -> Iterator[None]:
    """The network with rectifiers that do not leak."""
    leaks = [module for module in network.modules() if isinstance(module, Leak)]
    slopes = [module.slope for module in leaks]
    try:
        for module in leaks:
            module.slope = 0.0
        yield
    finally:
        for module, slope in zip(leaks, slopes, strict=True):
            module.slope = slope
