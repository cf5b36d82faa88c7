"""What a finished job of supermask methods came to, and how much of each task's mask was free.

    clray sweep permuted-mnist10k.exssnet
    python tests/perf/free_shares.py results/jobs/permuted-mnist10k.exssnet

One line for each entry: average accuracy and forgetting on test with their intervals over seeds,
and the mean free share of tasks 1, 2, 5 and the last.
"""

from __future__ import annotations

import statistics
import sys

from clray.report.numbers import estimate
from clray.report.reading import Job, read


def main(path: str) -> None:
    """Print the table."""
    job = read(path)
    if not isinstance(job, Job) or job.final is None:
        sys.exit(f"{path} is no finished job")
    print(f"{'entry':14}  {'accuracy':15}  {'forgetting':15}  free share of tasks 1, 2, 5, last")
    for row in (row for board in job.final.boards for row in board.rows):
        runs = [job.runs[key] for key in row.test_keys]
        told = [[record.facts["free_share"] for record in run.records] for run in runs]
        measures = [row.on_test(name) for name in ("average_accuracy", "forgetting")]
        shown = [estimate(one.mean, one.interval) for one in measures]
        free = [statistics.mean(shares[at] for shares in told) for at in (0, 1, 4, -1)]
        cells = "  ".join(f"{share:.3f}" for share in free)
        print(f"{row.label:14}  {shown[0]:15}  {shown[1]:15}  {cells}")


if __name__ == "__main__":
    main(*sys.argv[1:])
