"""How many machines of what size hold all slots of a job."""

from __future__ import annotations

import math
from dataclasses import dataclass

from clray.spec import Resources

CPUS_PER_MACHINE = 8
"""What a machine without GPU has, unless one worker needs more."""
SPARE_CPUS = 1
"""For what reads streams beside the workers."""
WORKER_GIB = 4
"""Memory of a worker beside what it keeps of a stored stream: torch, CUDA, its model."""
RAY_GIB = 4
"""Memory of Ray on each machine."""


@dataclass(frozen=True)
class Machines:
    """Machines that are all alike.

    Attributes:
        count: how many hold all slots at once.
        workers: how many workers each holds.
        gpus: GPUs of each; whole ones.
        cpus: CPUs of each.
        gib: memory of each, in GiB.
    """

    count: int
    workers: int
    gpus: int
    cpus: int
    gib: int


def machines_for(resources: Resources) -> Machines:
    """The fewest machines of one GPU (or as many as a worker needs, or none) that hold all slots.

    Workers that share a GPU are packed: 4 slots of a quarter of a GPU need one.
    """
    total = resources.slots * resources.workers
    share, cpus = resources.gpus_per_worker, resources.cpus_per_worker
    gpus = math.ceil(share)
    if not share:
        fit = max(1, math.floor(CPUS_PER_MACHINE / cpus))
    elif share < 1:
        fit = math.floor(1 / share + 1e-9)
    else:
        fit = 1
    workers = min(fit, total)
    memory = WORKER_GIB + math.ceil(resources.memory / 2**30)
    return Machines(
        count=math.ceil(total / workers),
        workers=workers,
        gpus=gpus,
        cpus=math.ceil(workers * cpus) + SPARE_CPUS,
        gib=workers * memory + RAY_GIB,
    )
