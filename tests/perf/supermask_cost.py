"""What a step costs that searches a mask, or trains its weights, beside a plain one.

    python tests/perf/supermask_cost.py [MODEL] [ROUNDS]

One network for all (slim_resnet18 on 3 x 32 x 32 by default, batches of 64, Adam), one thread. Each
round takes every kind of step once, side by side, so that what else the machine does falls on all;
ratios are medians over rounds of each kind's time against the plain step's (or evaluation's) of the
same round. Aims: a mask step at most 1.6 times a plain one, a weight step and an evaluation at most
1.15 times.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from clray import registry
from clray.models.bitmask import Largest, kept
from clray.models.classifier import Classifier
from clray.models.subnetworks import Subnetworks
from clray.spec import Component

DENSITY = 0.1
MODELS = {
    "slim_resnet18": ((3, 32, 32), {}),
    "lenet-300-100": ((1, 28, 28), {"name": "mlp", "hidden": [300, 100]}),
}


def network(name: str) -> Classifier:
    """The model, with 10 outputs."""
    shape, knobs = MODELS[name]
    torch.manual_seed(0)
    component = Component.model_validate({"name": name, **knobs})
    built: Classifier = registry.configure("model", component).build("", shape, 10)
    return built


def searching(model: Classifier) -> tuple[Subnetworks, list[nn.Parameter]]:
    """The network while it searches the mask of a second task."""
    subnetworks = Subnetworks(model, 10)
    selections = {
        name: Largest(kept(DENSITY, layer.weight.numel()))
        for name, layer in subnetworks.layers.items()
    }
    subnetworks.search(subnetworks.draw(0), selections)
    subnetworks.settle()
    subnetworks.keep("0", subnetworks.capture())
    return subnetworks, subnetworks.search(subnetworks.draw(1), selections)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor) -> None:
    """Forward alone, in evaluation mode."""
    model(x)


def main(name: str = "slim_resnet18", rounds: str = "15") -> None:
    """Print the table."""
    torch.set_num_threads(1)
    shape, _ = MODELS[name]
    x, y = torch.randn(64, *shape), torch.randint(10, (64,))
    plain, plain_eval = network(name), network(name).eval()
    masked, trained, shown = network(name), network(name), network(name)
    _, scores = searching(masked)
    subnetworks, _ = searching(trained)
    subnetworks.settle()
    weights = subnetworks.train_weights(exclusive=True)
    searching(shown)[0].show("0")
    shown.eval()
    adam = partial(torch.optim.Adam, lr=1e-4)
    kinds: dict[str, Callable[[], None]] = {
        "plain step": partial(step, plain, adam(plain.parameters()), x, y),
        "mask step": partial(step, masked, adam(scores), x, y),
        "weight step": partial(step, trained, adam(weights), x, y),
        "plain evaluation": partial(evaluate, plain_eval, x),
        "masked evaluation": partial(evaluate, shown, x),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(int(rounds) + 2):
        for kind, run in kinds.items():
            start = time.perf_counter()
            run()
            seconds[kind].append(time.perf_counter() - start)
    print(f"{name}, {sum(p.numel() for p in plain.parameters()):,} weights, density {DENSITY}")
    for kind, taken in seconds.items():
        against = seconds["plain evaluation" if "evaluation" in kind else "plain step"]
        ratio = statistics.median(a / b for a, b in zip(taken[2:], against[2:], strict=True))
        print(f"{kind:18} {1e3 * statistics.median(taken[2:]):9.2f} ms  {ratio:5.2f} times")


if __name__ == "__main__":
    main(*sys.argv[1:])
