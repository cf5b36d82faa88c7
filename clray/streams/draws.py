"""Orders and random draws: which classes and tasks come when, which rows are held out or kept.

Every draw is a pure function of its arguments; rows always come back in file order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor

from clray.errors import BadData, BadSpec, nearest_name
from clray.spec import derive_seed
from clray.streams.task_orders import ORDERS

PUBLISHED = {
    f"{name}/{letter}": order for name, own in ORDERS.items() for letter, order in own.items()
}
ACCEPTED = (
    "natural, trial-seed, a seed (a whole number from 0 up), a list of different numbers, or a "
    "published order such as cifar100-split/B"
)


def _order(value: Any) -> Any:
    if isinstance(value, str):
        if value in ("natural", "trial-seed", *PUBLISHED):
            return value
        nearest = nearest_name(value, ["natural", "trial-seed", *PUBLISHED])
        raise ValueError(ACCEPTED + f". Did you mean {nearest!r}?" * bool(nearest))
    items = value if isinstance(value, list | tuple) else [value]
    numbers = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in items)
    if not numbers or not items or len(set(items)) != len(items):
        raise ValueError(ACCEPTED)
    return value


Order = Annotated[
    Literal["natural", "trial-seed"] | str | int | tuple[int, ...], BeforeValidator(_order)
]
"""``natural``; ``trial-seed``, drawn anew for each seed of a trial; a published order by name
(``clray.streams.task_orders``); a seed of its own; or a list of indices, of which some may be left
out."""


def arrange(order: Order, count: int | None, seed: int, where: str) -> list[int]:
    """The indices 0 .. count - 1 in that order, or those listed.

    Args:
        order: see ``Order``.
        count: how many there are to choose from; None: unknown, so that a list is not checked.
        seed: of the trial.
        where: names the field in an error, and sets its draws apart from those of others.

    Raises:
        BadSpec: the list holds an index that does not exist.
    """
    if isinstance(order, str) and order in PUBLISHED:
        if count is not None and len(PUBLISHED[order]) != count:
            raise BadSpec(where, order, f"an order of {count}, not of {len(PUBLISHED[order])}")
        return list(PUBLISHED[order])
    if isinstance(order, tuple):
        if count is not None and max(order) >= count:
            raise BadSpec(where, max(order), f"indices from 0 to {count - 1}")
        return list(order)
    if count is None:
        raise ValueError("only a list needs no count")
    if order == "natural":
        return list(range(count))
    drawn = derive_seed(seed, where) if order == "trial-seed" else order
    generator = torch.Generator().manual_seed(int(drawn))
    return [int(n) for n in torch.randperm(count, generator=generator)]


def share(count: int, fraction: float) -> int:
    """``count * fraction`` to the nearest whole number, halves up, in exact decimals."""
    return int(Fraction(repr(float(fraction))) * count + Fraction(1, 2))


def keep(labels: Tensor, rows: Tensor, fraction: float, seed: int) -> Tensor:
    """A share of ``rows`` (int64 [n]), stratified by ``labels`` (int64 [N]); 1 or more of each."""
    if fraction == 1:
        return rows
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for _, own in _by_class(labels, rows):
        shuffled = own[torch.randperm(len(own), generator=generator)]
        parts.append(shuffled[: max(1, share(len(own), fraction))])
    return torch.cat(parts).sort().values


def hold_out(
    labels: Tensor, rows: Tensor, fraction: float, seed: int, where: str
) -> tuple[Tensor, Tensor]:
    """Cut ``rows`` into what is learned from and what is held out, stratified by class.

    Args:
        labels: int64 [N].
        rows: int64 [n].
        fraction: share that is held out; at least 1 example of each class stays on each side.
        seed: of the draw.
        where: names the rows in an error.

    Raises:
        BadData: a class has fewer than 2 examples.
    """
    generator = torch.Generator().manual_seed(seed)
    learned, held = [], []
    for label, own in _by_class(labels, rows):
        if len(own) < 2:
            accepted = "2 or more, so that one can be held out for validation"
            raise BadData(f"{where}: training examples of class {label}", len(own), accepted)
        shuffled = own[torch.randperm(len(own), generator=generator)]
        cut = min(max(1, share(len(own), fraction)), len(own) - 1)
        held.append(shuffled[:cut])
        learned.append(shuffled[cut:])
    return torch.cat(learned).sort().values, torch.cat(held).sort().values


def deal(labels: Tensor, rows: Tensor, parts: int, seed: int, where: str) -> list[Tensor]:
    """``rows`` dealt out at random into parts of equal size (give or take 1), as are its classes.

    Raises:
        BadData: a class has fewer examples than there are parts.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for label, own in _by_class(labels, rows):
        if len(own) < parts:
            accepted = f"{parts} or more, one for each task (fewer num_tasks may do)"
            raise BadData(f"{where}: training examples of class {label}", len(own), accepted)
        shuffled.append(own[torch.randperm(len(own), generator=generator)])
    deck = torch.cat(shuffled)
    return [deck[part::parts].sort().values for part in range(parts)]


def rows_of(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """int64 [n]: the rows whose labels (int64 [N]) are among ``classes``, in file order."""
    return torch.isin(labels, torch.tensor(classes)).nonzero().squeeze(1)


def _by_class(labels: Tensor, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(class, its rows) for each class in ``rows``, ascending."""
    own = labels[rows]
    grouped = rows[own.argsort(stable=True)]
    start = 0
    for label, count in enumerate(own.bincount().tolist()):
        if count:
            yield label, grouped[start : start + count]
        start += count
