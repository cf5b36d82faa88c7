"""How many slots machines hold, and what is refused, with the numbers."""

from __future__ import annotations

from typing import Any

import pytest

from clray.capacity import NodeType, refuse_impossible, slots_on
from clray.errors import BadResources
from clray.spec import Resources

HEAD = NodeType("head", {"CPU": 4}, 1)
GPUS = NodeType("gpus", {"CPU": 8, "GPU": 1}, 4)


def held(**changes: Any) -> Resources:
    return Resources.model_validate({"slots": 100, **changes})


@pytest.mark.parametrize(
    ("changes", "nodes", "slots"),
    [
        ({}, [HEAD, GPUS], 4 + 4 * 8),
        ({"cpus_per_worker": 0.1}, [HEAD], 40),
        ({"cpus_per_worker": 3}, [HEAD, GPUS], 1 + 4 * 2),
        ({"gpus_per_worker": 1}, [HEAD, GPUS], 4),
        ({"gpus_per_worker": 0.25}, [HEAD, GPUS], 16),
        ({"gpus_per_worker": 0.3}, [HEAD, GPUS], 12),
        ({"gpus_per_worker": 0.6}, [NodeType("two", {"CPU": 8, "GPU": 2}, 1)], 2),
        ({"workers": 3, "gpus_per_worker": 1}, [HEAD, GPUS], 1),
        ({"slots": 2}, [HEAD, GPUS], 2),
        ({"gpus_per_worker": 8}, [HEAD, NodeType("unknown", {}, 2)], 100),
        ({"gpus_per_worker": 8}, [HEAD, NodeType("unknown", {}, 0)], 0),
        ({}, [], 0),
    ],
)
def test_slots_that_fit(changes: dict[str, Any], nodes: list[NodeType], slots: int) -> None:
    assert slots_on(held(**changes), nodes) == slots


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_worker": 2}, r"gpus_per_worker: got 2.*at most 1 GPUs, all that one machine"),
        ({"cpus_per_worker": 9}, r"cpus_per_worker: got 9.*at most 8 CPUs, all that one machine"),
        ({"workers": 5, "gpus_per_worker": 1}, r"workers x gpus_per_worker: got 5.*at most 4 GPUs"),
        ({"workers": 37}, r"workers x cpus_per_worker: got 37.*at most 36 CPUs"),
        ({"workers": 5, "cpus_per_worker": 5}, r"workers: got 5.*at most 4 workers of this size"),
    ],
)
def test_what_can_never_be_is_refused_with_numbers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadResources, match=message) as raised:
        refuse_impossible(held(**changes), [HEAD, GPUS])
    assert "4 x gpus: 8 CPUs, 1 GPUs" in str(raised.value)


def test_what_fits_is_not_refused() -> None:
    refuse_impossible(held(workers=4, gpus_per_worker=1), [HEAD, GPUS])


def test_a_share_of_more_than_one_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        held(gpus_per_worker=1.5)
