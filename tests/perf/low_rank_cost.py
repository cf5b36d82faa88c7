"""What fitting a task's scales and factors costs, and a step on them beside a plain one.

    python tests/perf/low_rank_cost.py [ROUNDS] [THREADS]

LeNet for 3 x 32 x 32 (9 rounds, 2 threads by default): its weights are moved a little, as a
warm-up would. Aims: scales and factors of all layers in less than 1 second; a factored step (Adam,
batches of 128) at most 1.5 times a plain one. The yardstick of the scales is the released code's
way, a loop over rows and columns with an outer product in each, on one layer of 500 x 800. In each
round every kind of work is done once, side by side, so that what else the machine does falls on
all; ratios are medians over rounds of each kind's time against its yardstick's in the same round.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray import registry
from clray.models.classifier import Classifier
from clray.models.low_rank import Factored
from clray.models.low_rank_fit import Convolutions, directions, fit_scales, residual
from clray.models.low_rank_form import Form, parameter
from clray.models.low_rank_network import LowRankNetwork
from clray.spec import Component

Work = Callable[[], object]

CAPS = (10, 30, 100)
BATCH = 128


def lenet() -> Classifier:
    """The network, with 10 outputs."""
    torch.manual_seed(0)
    configured = registry.configure("model", Component(name="lenet"))
    built: Classifier = configured.build("", (3, 32, 32), 10)
    return built


def moved(weight: Tensor) -> Tensor:
    """Weights as a warm-up may leave them: a tenth of their size away."""
    return weight + 0.1 * weight.std() * torch.randn_like(weight)


def fit_and_factor(
    pairs: Iterable[tuple[Tensor, Tensor]], convolutions: Convolutions, most: int | None
) -> list[tuple[Tensor, ...]]:
    """Scales and factors, of at most rank 100, for every layer's new and old weights."""
    fitted: list[tuple[Tensor, ...]] = []
    for free, base in pairs:
        rows, columns = fit_scales(free, base)
        found = directions(residual(free, base, rows, columns), convolutions, most)
        fitted.append((rows, columns, *found.factors(min(100, len(found.values)))))
    return fitted


def scales_by_loops(free: Tensor, base: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns one by one, the columns by an outer product each."""
    found = [(f * b).sum() / b.square().sum() for f, b in zip(free, base, strict=True)]
    rows, columns = torch.stack(found), []
    for column in range(free.shape[1]):
        outer = rows[:, None] * base[:, column]
        columns.append((free[:, column] * outer).sum() / outer.square().sum())
    return rows, torch.stack(columns)


def factored(
    model: Classifier, convolutions: Convolutions, cap: int
) -> tuple[LowRankNetwork, Form]:
    """The network, with a form of at most that rank that learns."""
    network = LowRankNetwork(model, convolutions)
    form = network.free(network.drawn_head(10, seed=0))
    for path, layer in network.layers.items():
        pair = moved(layer.weight.detach()), layer.weight.detach()
        (own,) = fit_and_factor([pair], convolutions, cap)
        rows, columns, left, right = (parameter(value) for value in own)
        bias = None if layer.bias is None else parameter(layer.bias)
        left, right = parameter(left[:, :cap]), parameter(right[:cap])
        form.layers[path] = Factored(rows, columns, left, right, bias)
    network.freeze()
    return network, form


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Forward, backward, update."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def compare(title: str, kinds: dict[str, Work], rounds: int) -> None:
    """Print what each kind takes, and how many times what the first does."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 2):
        for kind, run in kinds.items():
            start = time.perf_counter()
            run()
            seconds[kind].append(time.perf_counter() - start)
    print(title)
    against = next(iter(seconds.values()))[2:]
    for kind, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(taken[2:], against, strict=True))
        print(f"  {kind:32} {1e3 * statistics.median(taken[2:]):9.2f} ms  {ratio:7.3f} times")


def main(rounds: str = "9", threads: str = "2") -> None:
    """Print the tables."""
    torch.set_num_threads(int(threads))
    number = int(rounds)
    model = lenet()
    weights = [p.detach() for p in model.encoder.parameters() if p.dim() > 1]
    pairs = [(moved(weight), weight) for weight in weights]
    print(", ".join("x".join(map(str, weight.shape)) for weight in weights))
    fits: dict[str, Work] = {
        f"{convolutions}, {'exact' if most is None else f'{most} directions'}": partial(
            fit_and_factor, pairs, convolutions, most
        )
        for convolutions in ("window-mean", "reshape")
        for most in (None, 100)
    }
    compare("scales and factors of all layers", fits, number)
    free, base = pairs[-1]
    kinds: dict[str, Work] = {
        "a loop, as released": partial(scales_by_loops, free, base),
        "one round": partial(fit_scales, free, base),
        "20 rounds": partial(fit_scales, free, base, 20),
        "released columns": partial(fit_scales, free, base, 1, True),
    }
    compare(f"scales of {base.shape[0]} x {base.shape[1]}", kinds, number)
    steps(number)


def steps(rounds: int) -> None:
    """Print the table of training steps."""
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    adam = partial(torch.optim.Adam, lr=1e-3)
    plain = lenet()
    kinds: dict[str, Work] = {"plain": partial(step, plain, adam(plain.parameters()), x, y)}
    with ExitStack() as stack:
        for convolutions in ("window-mean", "reshape"):
            for cap in CAPS:
                network, form = factored(lenet(), convolutions, cap)
                stack.enter_context(network.using(form))
                work = partial(step, network.model, adam(form.parameters()), x, y)
                kinds[f"{convolutions}, rank {cap}"] = work
        compare(f"a training step on {BATCH} examples", kinds, rounds)


if __name__ == "__main__":
    main(*sys.argv[1:])
