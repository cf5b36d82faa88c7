"""What runs on the cluster's head: the sweep, after a look at whether the machine can run it.

``python -m clray.cli.on_head REQUIREMENTS JOB RESULTS [--events]``, in the folder of what was sent.
"""

from __future__ import annotations

import signal
import sys
from importlib import metadata
from pathlib import Path
from types import FrameType


def missing(requirements: list[str]) -> list[str]:
    """Requirements that the packages installed here do not meet, with what is there instead."""
    from packaging.requirements import Requirement

    found = []
    for line in requirements:
        requirement = Requirement(line)
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            found.append(line)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{line} ({version} is installed)")
    return found


def main(arguments: list[str]) -> int:
    """Run the job that lies here; its exit code."""
    requirements, job, results, *others = arguments
    lines = Path(requirements).read_text().splitlines()
    if absent := missing([line for line in lines if line]):
        print(
            f"clray: error: this cluster lacks {', '.join(absent)}; accepted: machines that have "
            "them (setup commands in the cluster file, an image), or clray submit --install",
            file=sys.stderr,
        )
        return 2

    from clray.__main__ import invoke

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # so that the claim on the job's folder is given back

    signal.signal(signal.SIGTERM, leave)
    return invoke(["sweep", job, "--results", results, *others])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
