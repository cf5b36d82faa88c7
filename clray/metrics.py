"""What the accuracy matrix says about a learner.

``R[t][i]`` is the accuracy on task i after learning task t, in [0, 1]; None, or a row that ends
before i, where it was not measured. ``initial[i]`` is the accuracy on task i before anything was
learned. T is the number of rows: a stream that is not finished is measured as if it ended there.
A metric that is undefined, or needs an entry that is missing, is None.

Pure Python: whatever reads results can import it without torch or Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Row: TypeAlias = Sequence[float | None]
Matrix: TypeAlias = Sequence[Row]


def average_accuracy(R: Matrix) -> float | None:
    """Mean over the tasks so far of the accuracy now: mean_i R[T-1][i], i < T."""
    return _mean(_at(R, len(R) - 1, i) for i in range(len(R)))


def average_incremental_accuracy(R: Matrix) -> float | None:
    """Mean over t of the average accuracy after task t (Rebuffi et al. 2017, arXiv 1611.07725)."""
    return _mean(average_accuracy(R[: t + 1]) for t in range(len(R)))


def forgetting(R: Matrix) -> float | None:
    """How far each old task has fallen below its best: mean_{i<T-1} (max_{t<T-1} R[t][i] -
    R[T-1][i]) (Chaudhry et al. 2018, arXiv 1801.10112); needs T >= 2.

    As in the paper, the best is over all rows before the last in which task i was measured, also
    those before it was learned. Negative where the last row is the best.
    """
    last = len(R) - 1
    return _mean(_minus(_best(R, i), _at(R, last, i)) for i in range(last))


def backward_transfer(R: Matrix) -> float | None:
    """What later tasks did to old ones: mean_{i<T-1} (R[T-1][i] - R[i][i]) (Lopez-Paz & Ranzato
    2017, arXiv 1706.08840); needs T >= 2."""
    last = len(R) - 1
    return _mean(_minus(_at(R, last, i), _at(R, i, i)) for i in range(last))


def forward_transfer(R: Matrix, initial: Row | None) -> float | None:
    """What earlier tasks did for later ones: mean_{0<i<T} (R[i-1][i] - initial[i]) (Lopez-Paz &
    Ranzato 2017, arXiv 1706.08840); needs T >= 2, and each task measured before it is learned."""
    if initial is None:
        return None
    return _mean(_minus(_at(R, i - 1, i), _at([initial], 0, i)) for i in range(1, len(R)))


def learning_accuracy(R: Matrix) -> float | None:
    """Mean over the tasks of the accuracy right after learning each: mean_i R[i][i] (Riemer et
    al. 2019, arXiv 1810.11910)."""
    return _mean(_at(R, i, i) for i in range(len(R)))


def minimum_accuracy(R: Matrix) -> float | None:
    """The accuracy now on the task that is worst known: min_i R[T-1][i], i < T."""
    now = [_at(R, len(R) - 1, i) for i in range(len(R))]
    known = [a for a in now if a is not None]
    return min(known) if known and len(known) == len(now) else None


def worst_case_accuracy(R: Matrix) -> float | None:
    """Mean over the tasks of the lowest accuracy since each was learned: mean_i min_{t>=i} R[t][i].

    WC-ACC of De Lange et al. 2023 (arXiv 2205.13452), which counts the last task once and the old
    ones by their lowest; they evaluate after every update, here the ends of tasks count.
    """
    return _mean(_lowest(R, i) for i in range(len(R)))


def order_disparity(accuracies: Mapping[str, Sequence[float]]) -> tuple[float, float] | None:
    """Average and maximum order disparity: the mean, and the largest, over tasks of the difference
    between the highest and the lowest final accuracy of the task over orders (AOPD and MOPD; Yoon
    et al. 2020, arXiv 1902.09432). Repeats of an order are to be averaged first.

    Args:
        accuracies: by the task's name, one for each order.

    Returns:
        (average, maximum); None without two orders.
    """
    spans = [max(values) - min(values) for values in accuracies.values() if len(values) > 1]
    return (math.fsum(spans) / len(spans), max(spans)) if spans else None


def costs(
    footprints: Sequence[Mapping[str, float]], steps: int, examples_seen: int, replayed: int = 0
) -> dict[str, float]:
    """What a trial took, so far.

    Args:
        footprints: after each task, see ``clray.learner.Learner.footprint``.
        steps: optimizer steps in all.
        examples_seen: training examples passed over in all, repeats counted.
        replayed: examples drawn from a memory in all, repeats counted.

    Returns:
        ``growth`` (parameters now over those after the first task, less 1), ``parameters``,
        ``bytes``, ``steps``, ``examples_seen``, and ``examples_processed``: these and the replayed.
    """
    first, now = footprints[0], footprints[-1]
    return {
        "growth": now["parameters"] / first["parameters"] - 1 if first["parameters"] else 0.0,
        "parameters": now["parameters"],
        "bytes": now["bytes"],
        "steps": steps,
        "examples_seen": examples_seen,
        "examples_processed": examples_seen + replayed,
    }


def all_metrics(R: Matrix, initial: Row | None = None) -> dict[str, float | None]:
    """Every metric of the accuracy matrix, by name."""
    return {
        "average_accuracy": average_accuracy(R),
        "average_incremental_accuracy": average_incremental_accuracy(R),
        "forgetting": forgetting(R),
        "backward_transfer": backward_transfer(R),
        "forward_transfer": forward_transfer(R, initial),
        "learning_accuracy": learning_accuracy(R),
        "minimum_accuracy": minimum_accuracy(R),
        "worst_case_accuracy": worst_case_accuracy(R),
    }


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95 % confidence interval (Student's t; None below 2 values).

    Raises:
        ValueError: there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("the mean of no values")
    mean = math.fsum(values) / n
    if n < 2:
        return mean, None
    from scipy.special import stdtrit

    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
    return mean, float(stdtrit(n - 1, 0.975)) * math.sqrt(variance / n)


def _at(R: Matrix, t: int, i: int) -> float | None:
    return R[t][i] if i < len(R[t]) else None


def _best(R: Matrix, i: int) -> float | None:
    measured = [a for t in range(len(R) - 1) if (a := _at(R, t, i)) is not None]
    return max(measured) if _at(R, i, i) is not None else None


def _lowest(R: Matrix, i: int) -> float | None:
    since = [_at(R, t, i) for t in range(i, len(R))]
    known = [a for a in since if a is not None]
    return min(known) if len(known) == len(since) else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _mean(values: Iterable[float | None]) -> float | None:
    terms = list(values)
    known = [v for v in terms if v is not None]
    return math.fsum(known) / len(known) if terms and len(known) == len(terms) else None
