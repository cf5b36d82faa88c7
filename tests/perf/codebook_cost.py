"""What codes, values and keys cost: a lookup, a step from codes, an update of keys, an encoder.

    python tests/perf/codebook_cost.py [--rounds N] [--threads N] [--side PIXELS]

256 codebooks of 4096 pairs, keys of 14 numbers, 1024 features, batches of 256, 10 classes. Aims: a
step from codes at least 30 times faster than one with lookup, and at least 500 times faster than
one with MobileNetV1 (random weights) and lookup; less than 2 GiB at the peak of placing keys, which
a process of its own does. In each round every kind of work is done once, side by side, so that what
else the machine does falls on all; ratios are medians over rounds of times in the same round.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clray.models.codebook_config import CodebookConfig
from clray.models.codebooks import CPU_BYTES, Codebooks, nearest
from clray.models.key_fit import KeyAverage, fit_keys
from clray.models.value_table import ValueTable

Work = Callable[[], object]

CONFIG = CodebookConfig()
WIDTH, BATCH, CLASSES = 1024, 256, 10
EPOCH = 8
"""Batches of codes in a round: a single one would pay for what other work left in the caches."""
PIECES = (CPU_BYTES // 4, CPU_BYTES, 4 * CPU_BYTES, 16 * CPU_BYTES)


def step(values: ValueTable, y: Tensor, codes: Tensor) -> None:
    """Forward, softmax, and plain descent on cross-entropy with labels smoothed by a tenth."""
    p = values(codes).detach().softmax(1)
    target = 0.9 * F.one_hot(y, CLASSES) + 0.1 / CLASSES
    values.descend(codes, p - target, 0.3)


def with_autograd(values: ValueTable, optimizer: torch.optim.Optimizer, codes: Tensor) -> None:
    """The same step as torch takes it, without labels smoothed."""
    optimizer.zero_grad()
    y = torch.zeros(len(codes), dtype=torch.int64)
    F.cross_entropy(values(codes), y).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def update(average: KeyAverage, books: Codebooks, features: Tensor) -> None:
    """One batch of the moving averages, lookup and all."""
    heads = books.heads(features)
    average.update(heads, nearest(heads, books.keys).squeeze(2))


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor) -> None:
    """One batch through the encoder."""
    encoder(images)


def epoch(run: Callable[..., object], batches: list[Tensor]) -> None:
    """One kind of work on each batch of codes, one after the other."""
    for codes in batches:
        run(codes)


def measure(kinds: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Seconds of a batch of each kind in each round, after one that does not count."""
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, run in kinds.items():
            start = time.perf_counter()
            run()
            batches = EPOCH if "from codes" in kind else 1
            seconds[kind].append((time.perf_counter() - start) / batches)
    return {kind: taken[1:] for kind, taken in seconds.items()}


def ratio(above: list[list[float]], below: list[float]) -> float:
    """Median over rounds of the sum of several kinds over another."""
    ratios: list[float] = [sum(parts) / one for *parts, one in zip(*above, below, strict=True)]
    return statistics.median(ratios)


def place() -> None:
    """Place keys as a trial would begin, two passes over four batches; print the peak in MiB."""
    generator = torch.Generator().manual_seed(0)
    books = CONFIG.build(WIDTH, generator)
    features = torch.randn(4 * BATCH, WIDTH, generator=generator)
    config = CONFIG.model_copy(update={"key_epochs": 2})
    facts = fit_keys(books, config, lambda epoch: torch.split(features, BATCH), generator)
    assert facts["keys_used"] > 0
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="a worker of a trial has one")
    parser.add_argument("--side", type=int, default=96, help="of the encoder's images")
    parser.add_argument("--place", action="store_true", help="only place keys, as the parent asks")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.place:
        place()
        return
    # First: the peak of a process begins at what its parent held when it was started.
    command = [sys.executable, str(Path(__file__)), "--place", f"--threads={given.threads}"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"peak memory of placing keys: {float(told):.0f} MiB, aim: below 2048")
    import timm  # takes a second, which placing keys should not

    generator = torch.Generator().manual_seed(0)
    books = CONFIG.build(WIDTH, generator)
    features = torch.randn(BATCH, WIDTH, generator=generator)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)
    values = ValueTable(CONFIG.codebooks, CONFIG.pairs, CLASSES)
    heads, codes = books.heads(features), [books(features)]
    codes += [
        codes[0][:, torch.randperm(CONFIG.codebooks, generator=generator)] for _ in range(EPOCH - 1)
    ]
    other = Codebooks(books.projection, books.keys.clone())
    average = KeyAverage(
        other.keys, CONFIG.key_decay, CONFIG.dead_below, released=False, generator=generator
    )
    average.begin(heads)
    plain = ValueTable(CONFIG.codebooks, CONFIG.pairs, CLASSES)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.3)
    encoder = timm.create_model("mobilenetv1_100", pretrained=False, num_classes=0).eval()
    images = torch.rand(BATCH, 3, given.side, given.side, generator=generator)
    kinds: dict[str, Work] = {
        "step from codes": partial(epoch, partial(step, values, y), codes),
        "logits from codes": partial(epoch, values, codes),
        "counts from codes": partial(epoch, partial(values.count, y=y), codes),
        "step from codes, by autograd": partial(
            epoch, partial(with_autograd, plain, optimizer), codes
        ),
        "lookup": partial(books, features),
        "of it, heads": partial(books.heads, features),
        "update of keys, with lookup": partial(update, average, other, features),
        f"MobileNetV1 at {given.side} px": partial(encode, encoder, images),
    }
    kinds |= {
        f"search, {size / 2**20:g} MiB at once": partial(
            nearest, heads, books.keys, most_bytes=size
        )
        for size in PIECES
    }
    seconds = measure(kinds, given.rounds)
    steps = seconds["step from codes"]
    print(f"a batch of {BATCH}, {given.threads} thread(s)")
    for kind, taken in seconds.items():
        median = 1e3 * statistics.median(taken)
        print(f"  {kind:32} {median:9.2f} ms {ratio([taken], steps):8.1f} steps from codes")
    encoded = seconds[f"MobileNetV1 at {given.side} px"]
    print("times a step from codes")
    found = ratio([seconds["lookup"], steps], steps)
    print(f"  {'a step with lookup':32} {found:9.1f}, aim: 30 or more")
    found = ratio([encoded, seconds["lookup"], steps], steps)
    print(f"  {'a step with encoder and lookup':32} {found:9.1f}, aim: 500 or more")


if __name__ == "__main__":
    main()
