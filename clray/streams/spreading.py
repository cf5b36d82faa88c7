"""Work that is shared out over the cluster by Ray Data."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.data

from clray.errors import BadInput

logging.getLogger("ray.data").setLevel(logging.ERROR)  # ray.data has just set another


def spread(work: Callable[[Any], Any], items: Sequence[Any], **options: Any) -> Iterator[Any]:
    """What ``work`` makes of each item, anywhere in the cluster, as it is done.

    Args:
        work: is given an item, and returns something small.
        items: what there is to do; each travels by itself.
        options: of Ray Data's ``map``, such as ``num_gpus``.

    Raises:
        BadInput: what ``work`` raised.
    """
    if not items:
        return
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    references = [ray.put(item) for item in items]

    def do(row: dict[str, Any]) -> dict[str, Any]:
        try:
            done = work(ray.get(references[row["item"]]))
        except BadInput as error:  # raised here, it would come back as text in Ray's own error
            done = error
        return {"done": pickle.dumps(done)}

    with ray.data.DataContext.current(context):
        numbers = ray.data.from_items(
            [{"item": number} for number in range(len(items))], override_num_blocks=len(items)
        )
        for row in numbers.map(do, **options).iter_rows():
            done = pickle.loads(row["done"])
            if isinstance(done, BadInput):
                raise done
            yield done
