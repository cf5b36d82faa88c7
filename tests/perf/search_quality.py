"""What a sampler is worth: the chosen validation score of 30 trials, against random search.

    python tests/perf/search_quality.py [METHOD ...] [--seeds 10] [--trials 30] [--samplers tpe ...]

Split-Digits, class-incremental, an MLP of 64 units, 5 epochs, each method with its own search space
and starting point. Trials run in this process, in the order of their numbers; the sampler knows
all results but the last. Prints each seed's best validation score and the means. No Ray, no
scheduler. The first 8 proposals of all samplers are the same random ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import clray
from clray import registry, trial
from clray.job import Search
from clray.parsing import merge, parse, read_yaml
from clray.samplers import distribution
from clray.space import SearchSpace
from clray.spec import TrialSpec
from clray.store import trial_folder
from clray.study import Result, Study

SPACES = Path(clray.__file__).parents[1] / "search_spaces"
LAG = 2


def base(method: str, seed: int) -> TrialSpec:
    plain = {
        "method": method,
        "benchmark": "split-digits",
        "model": {"name": "mlp", "hidden": [64]},
        "protocol": {"epochs": 5, "batch_size": 32, "memory": 100, "validation_fraction": 0.2},
        "optimizer": {"clip_norm": 1.0},
        "split": "validation",
        "seed": seed,
    }
    return registry.complete(TrialSpec.model_validate(plain))


def best(method: str, sampler: str, seed: int, trials: int, results: str) -> tuple[float, float]:
    """The best validation score of one search, and the seconds that its proposals took."""
    torch.set_num_threads(1)
    spec = base(method, seed)
    space = parse(SearchSpace, read_yaml(SPACES / f"{method}.yaml"), method)
    distributions = {
        path: distribution(dimension, registry.annotation(spec, path), path)
        for path, dimension in space.searched.items()
    }
    search = Search.model_validate({"sampler": sampler, "seed": seed, "trials": trials})
    study = Study(distributions, space.starting_points, search, trials, LAG, search.objective)
    scores, asked = [], 0.0
    waiting: list[tuple[int, Result]] = []
    while not study.finished:
        start = time.perf_counter()
        number, values = study.propose()
        asked += time.perf_counter() - start
        plain = spec.model_dump(mode="json")
        for path, value in {**space.fixed, **values}.items():
            section, _, knob = path.partition(".")
            plain = merge(plain, {section: {knob: value}})
        proposed = registry.complete(TrialSpec.model_validate(plain))
        outcome = trial.run(proposed, trial_folder(results, proposed.key))
        if outcome.state == "completed":
            scores.append(outcome.metrics["average_accuracy"] or 0.0)
        waiting.append((number, Result(outcome.state, outcome.metrics)))
        if len(waiting) == LAG:
            study.learn(*waiting.pop(0))
    return max(scores), asked


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=["er", "ewc"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--samplers", nargs="+", default=["tpe", "random"])
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as results,
        ProcessPoolExecutor(given.processes) as pool,
    ):
        for method in given.methods:
            runs = {
                (sampler, seed): pool.submit(
                    best, method, sampler, seed, given.trials, f"{results}/{sampler}-{seed}"
                )
                for seed in range(given.seeds)
                for sampler in given.samplers
            }
            print(f"{method}: {given.trials} trials, best validation average_accuracy by seed")
            for sampler in given.samplers:
                found = [runs[sampler, seed].result() for seed in range(given.seeds)]
                scores = [score for score, _ in found]
                each = " ".join(f"{score:.4f}" for score in scores)
                spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
                seconds = statistics.mean(asked for _, asked in found)
                print(
                    f"  {sampler:7} mean {statistics.mean(scores):.4f} (sd {spread:.4f})"
                    f"  proposals {seconds:.1f} s  {each}"
                )


if __name__ == "__main__":
    main()
