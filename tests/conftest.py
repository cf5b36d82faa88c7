"""What all tests share."""

from __future__ import annotations

import contextlib
import os

# Tests never talk to a Ray that somebody else has started.
os.environ.pop("RAY_ADDRESS", None)
os.environ["RAY_AUTH_MODE"] = "disabled"

from collections.abc import Callable

import psutil
import pytest
import torch

Titles = Callable[[], dict[int, str]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def titles() -> Titles:
    """Gives the processes below this one that are alive, by number: Ray names them by their job."""

    def alive() -> dict[int, str]:
        found = {}
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = " ".join(process.cmdline())
        return found

    return alive
