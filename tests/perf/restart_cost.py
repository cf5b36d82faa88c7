"""What 1,000 finished trials cost: the same command again, with and without its last files, and
``clray report``.

Run: python tests/perf/restart_cost.py [TRIALS]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOB = """
name: many
benchmark: {{name: split-digits, num_tasks: 2, train_fraction: 0.1}}
model: {{name: mlp, hidden: [8]}}
protocol: {{memory: 10}}
methods:
  er:
    space:
      method: {{memory_batch: {{range: [4, 64]}}}}
      optimizer: {{lr: {{range: [0.001, 1], log: true}}, momentum: {{range: [0, 0.9]}}}}
search: {{trials: {trials}}}
final: {{seeds: 3}}
"""


def timed(folder: Path, *arguments: str) -> float:
    """Seconds that a command took."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "clray", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start


def main() -> None:
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many.yaml").write_text(JOB.format(trials=trials))
        job = folder / "results" / "jobs" / "many"
        print(f"{trials} trials: {timed(folder, 'sweep', 'many.yaml'):.1f} s")
        board = (job / "leaderboard.json").read_bytes()
        print(f"the same command again: {timed(folder, 'sweep', 'many.yaml'):.1f} s")
        for file in ("final.json", "leaderboard.json"):
            (job / file).unlink()
        lines = (job / "trials.jsonl").read_text().splitlines(keepends=True)
        (job / "trials.jsonl").write_text("".join(lines[: len(lines) // 2]))  # as after a kill
        print(f"again, with half of its log: {timed(folder, 'sweep', 'many.yaml'):.1f} s")
        assert (job / "leaderboard.json").read_bytes() == board
        print(f"clray report: {timed(folder, 'report', str(job)):.1f} s")
        size = (job / "report.html").stat().st_size
        print(f"its page: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
