"""What continual evaluation costs: its time over that of training, and whether training is slower.

    python -m tests.perf.evaluation_cost [JOB] [ENTRY] [KEY=VALUE]... [--subset N] [--rounds N]

Takes the benchmark, the network, the protocol and one method of a job (by default SGM on
split-digits), with changes as for ``clray sweep``, as a trial on test examples, with a point after
each of a task's first 30 updates and after every tenth, and without any, in turns: medians of
times, and of ratios in one round. The aim is a quarter of the training time at most, on cached
features.
"""

from __future__ import annotations

import argparse
import statistics
from tempfile import TemporaryDirectory

import torch

from clray import protocols, registry, trial
from clray.cli.sweep import load
from clray.outcome import Outcome
from clray.spec import Evaluation, TrialSpec
from clray.store import Folder


def spec_of(job: str, label: str, changes: list[str]) -> TrialSpec:
    """The trial of an entry of a job with the knobs that its file fixes."""
    planned = protocols.plan(load(job, changes))
    entry = planned.methods[label]
    assert entry.method is not None
    assert planned.benchmark is not None
    return registry.complete(
        TrialSpec(
            method=entry.method,
            benchmark=planned.benchmark,
            model=planned.model,
            protocol=planned.protocol.training,
            optimizer=planned.optimizer,
            split="test",
        )
    )


def run(spec: TrialSpec, evaluation: Evaluation | None) -> Outcome:
    """The trial, anew."""
    protocol = spec.protocol.model_copy(update={"evaluation": evaluation})
    with TemporaryDirectory() as folder:
        return trial.run(spec.model_copy(update={"protocol": protocol}), Folder(f"{folder}/trial"))


def main() -> None:
    """Print times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("job", nargs="?", default="split-digits.sgm")
    parser.add_argument("entry", nargs="?", default="sgm")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--subset", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    spec = spec_of(asked.job, asked.entry, asked.changes)
    evaluation = Evaluation(every=10, first=30, subset=asked.subset)
    times: dict[str, list[float]] = {"with": [], "without": [], "evaluation": []}
    points = graded = 0
    for _ in range(asked.rounds):
        for name, told in (("with", evaluation), ("without", None)):
            outcome = run(spec, told)
            times[name].append(outcome.seconds["train"])
            if told is not None:
                times["evaluation"].append(outcome.seconds["trace"])
                traces = [record["trace"] for record in outcome.records]
                points = sum(len(trace["updates"]) for trace in traces)
                graded = sum(sum(trace["examples"]) * len(trace["updates"]) for trace in traces)
    ratios = [a / b for a, b in zip(times["evaluation"], times["with"], strict=True)]
    slower = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
    steps = sum(record["steps"] for record in outcome.records)
    print(f"{asked.entry} of {asked.job}: {steps} updates, {points} points, {graded:,} answers")
    for name, found in times.items():
        print(f"  {name:<12}{statistics.median(found):8.2f} s")
    print(f"  evaluation / training      {statistics.median(ratios):.3f} (aim: 0.25 at most)")
    print(f"  training with / without    {statistics.median(slower):.3f}")


if __name__ == "__main__":
    main()
