from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clray.models.value_table import NARROW, ValueTable, add_rows

C, K, V, B = 8, 32, 5, 24


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def table(spread: float = 1.0, seed: int = 0) -> ValueTable:
    return ValueTable(C, K, V, spread, seeded(seed))


def some_codes(low: int = 0, high: int = K, batch: int = B, seed: int = 1) -> Tensor:
    return torch.randint(low, high, (batch, C), generator=seeded(seed))


def some_labels(batch: int = B, seed: int = 2) -> Tensor:
    return torch.randint(V, (batch,), generator=seeded(seed))


def residual(values: ValueTable, codes: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """The gradient of mean cross-entropy by logits, times B."""
    p: Tensor = values(codes).detach().softmax(1)
    return p - F.one_hot(y, V).to(p.dtype) * (1 - smoothing) - smoothing / V


def gradient(values: ValueTable, codes: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    loss = F.cross_entropy(values(codes), y, label_smoothing=smoothing)
    (found,) = torch.autograd.grad(loss, values.values)
    return found


def learn(values: ValueTable, codes: Tensor, y: Tensor, steps: int = 5, rate: float = 100) -> None:
    for _ in range(steps):
        values.descend(codes, residual(values, codes, y), rate)


def test_logits_are_the_mean_over_codebooks_of_the_rows_named() -> None:
    values, codes = table(), some_codes()
    cells = values.values.detach().view(C, K, V)
    expected = torch.stack([cells[book, codes[:, book]] for book in range(C)]).mean(0)
    torch.testing.assert_close(values(codes), expected)
    several = torch.stack([codes, some_codes(seed=3)], 2)
    torch.testing.assert_close(values(several), values(codes) + values(several[..., 1]))
    assert not ValueTable(C, K, V).values.any()


def test_exactly_the_rows_named_get_a_gradient() -> None:
    values, codes = table(), some_codes()
    named = torch.zeros(C, K, dtype=torch.bool)
    named[torch.arange(C), codes] = True
    found = gradient(values, codes, some_labels())
    assert torch.equal(found.any(1), named.flatten())
    before = values.values.detach().clone()
    learn(values, codes, some_labels(), steps=50)
    assert torch.equal((values.values != before).any(1), named.flatten())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("top", [1, 2])
def test_a_step_is_that_of_autograd(smoothing: float, top: int) -> None:
    values, y = table().double(), some_labels()
    codes = torch.stack([some_codes(seed=seed) for seed in range(top)], 2)
    codes = codes.squeeze(2) if top == 1 else codes
    expected = values.values.detach() - 0.3 * gradient(values, codes, y, smoothing)
    values.descend(codes, residual(values, codes, y, smoothing), 0.3)
    torch.testing.assert_close(values.values.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shared", [0, 20, 64])
def test_a_step_moves_another_example_by_the_share_of_codes_they_share(shared: int) -> None:
    num, rate = 64, 3.0
    values = ValueTable(num, K, V, 1.0, seeded()).double()
    x = torch.zeros(1, num, dtype=torch.int64)
    other = torch.where(torch.arange(num) < shared, 0, 1).unsqueeze(0)
    y = torch.tensor([3])
    before, pull = values(other).detach(), -residual(values, x, y)
    values.descend(x, -pull, rate)
    expected = before + rate / num * (shared / num) * pull
    torch.testing.assert_close(values(other).detach(), expected, rtol=0, atol=1e-14)


def test_learning_elsewhere_changes_no_bit_of_an_answer() -> None:
    values, probe = table(), some_codes(K // 2, K)
    before = values(probe).detach().clone()
    learn(values, some_codes(0, K // 2), some_labels(), steps=20)
    assert torch.equal(values(probe), before)


def test_tasks_that_share_no_row_commute_bit_for_bit() -> None:
    tasks = [
        (some_codes(0, K // 2), some_labels()),
        (some_codes(K // 2, K, seed=3), some_labels(seed=4)),
    ]
    one, other = table(), table()
    for codes, y in tasks:
        learn(one, codes, y)
    for codes, y in reversed(tasks):
        learn(other, codes, y)
    assert torch.equal(one.values, other.values)
    assert not torch.equal(one.values, table().values)


@pytest.mark.parametrize(
    ("name", "knobs"),
    [("SGD", {}), ("SGD", {"momentum": 0.9}), ("SGD", {"weight_decay": 1e-2}), ("Adam", {})],
)
def test_momentum_weight_decay_and_adam_are_not_local(name: str, knobs: dict[str, float]) -> None:
    """They move rows that no example names: the reason why values are learned by plain descent."""
    values, probe = table(), some_codes(K // 2, K)
    optimizer = getattr(torch.optim, name)(values.parameters(), lr=0.1, **knobs)
    for codes, y, steps in (
        (probe, some_labels(seed=4), 5),
        (some_codes(0, K // 2), some_labels(), 1),
    ):
        before = values(probe).detach().clone()
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(values(codes), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    plain = name == "SGD" and not knobs
    assert torch.equal(values(probe), before) == plain


def test_a_gradient_is_never_longer_than_its_bound() -> None:
    for seed in range(20):
        values = table(spread=10.0**seed / 1e10, seed=seed)
        codes, y = some_codes(seed=seed), some_labels(seed=seed)
        assert gradient(values, codes, y).norm() <= math.sqrt(2 / C)
    same = torch.zeros(B, C, dtype=torch.int64)  # all in one cell, wrong and sure
    values = table(spread=0)
    values.values.data[:, 1] = 100
    worst = gradient(values, same, torch.zeros(B, dtype=torch.int64)).norm()
    assert worst.item() == pytest.approx(math.sqrt(2 / C))


def test_small_steps_are_a_vote_of_class_counts() -> None:
    batch, total, num_classes = 64, 2000, 10
    y = torch.randint(num_classes, (total,), generator=seeded(1))
    centres = torch.rand(num_classes, 64, K, generator=seeded(2)) ** 8
    codes = torch.multinomial(centres[y].flatten(0, 1), 1, generator=seeded(3)).view(total, 64)
    learned, counted = ValueTable(64, K, num_classes), ValueTable(64, K, num_classes)
    counted.count(codes, y)
    for x, labels in zip(torch.split(codes, batch), torch.split(y, batch), strict=True):
        p = learned(x).detach().softmax(1)
        target = 0.9 * F.one_hot(labels, num_classes) + 0.1 / num_classes
        learned.descend(x, p - target, 0.3 * len(x) / batch)  # over B, the last batch too
    votes = counted(codes).argmax(1)
    assert (learned(codes).argmax(1) == votes).float().mean() >= 0.998
    assert (votes == y).float().mean() > 0.5


def test_counts_are_exact_and_in_no_order() -> None:
    values, codes, y = table(spread=0), some_codes(0, 3), some_labels()
    values.count(codes, y)
    cells = values.values.detach().view(C, K, V)
    for book in range(C):
        for label in range(V):
            expected = codes[y == label, book].bincount(minlength=K)
            assert torch.equal(cells[book, :, label], expected.float())
    other = table(spread=0)
    order = torch.randperm(B, generator=seeded())
    other.count(codes[order], y[order])
    assert torch.equal(other.values, values.values)


@pytest.mark.parametrize("width", [1, NARROW - 1, NARROW])
def test_rows_are_added_in_order_with_any_number_of_threads(width: int) -> None:
    rows = torch.randint(50, (40, 500), generator=seeded())
    updates = torch.randn(500, width, generator=seeded()).expand(40, 500, width)
    expected = torch.zeros(50, width)
    for row, update in zip(rows.flatten().tolist(), updates.flatten(0, 1), strict=True):
        expected[row] += update
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = torch.zeros(50, width)
            add_rows(found, rows, updates)
            assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)
