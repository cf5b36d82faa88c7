"""The Ray that clray runs on: one that is there (``RAY_ADDRESS``), or one of its own, which is gone
afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Ray reads these when it is imported or started. What a person has set stays.
for _name, _value in {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone without GPUs
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # methods of yours are found from where you stand
    "RAY_DATA_USE_DATASOURCE_V2": "0",  # starts 32 actors a read
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s would delay each start and restart
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What reads streams would be killed after a second of waiting, and take three to start again.
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

from clray.errors import BadInput  # noqa: E402

_TEMP_PREFIX = "clray-ray-"


def is_own() -> bool:
    """Whether clray starts a Ray of its own, on this machine."""
    return "RAY_ADDRESS" not in os.environ


def start() -> Path:
    """Connect to Ray, or start one; its temporary folder, for ``stop``."""
    _remove_abandoned()
    # Short, since it holds sockets, whose paths may have 107 characters; with our process
    # number, so that what a killed clray left behind is known as such.
    temp = Path(tempfile.mkdtemp(prefix=f"{_TEMP_PREFIX}{os.getpid()}-"))
    try:
        if is_own():
            ray.init(
                address="local",
                num_cpus=num_cpus(),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _temp_dir=str(temp),
            )
        else:
            ray.init(log_to_driver=False, logging_level="ERROR")
    except BaseException:
        stop(temp)
        raise
    return temp


def stop(temp: Path) -> None:
    """Leave Ray, and remove what it wrote to its temporary folder."""
    if ray.is_initialized():
        ray.shutdown()
    _remove(temp)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """Ray inside, and none before and after; what is on already is used and left on."""
    if ray.is_initialized():
        yield
        return
    temp = start()
    try:
        yield
    finally:
        with uninterrupted():  # a second Ctrl-C while cleaning up would leave processes behind
            stop(temp)


def cause(error: BaseException) -> BaseException:
    """The bad input that a Ray task found, or the error as it is."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, BadInput):
        seen = getattr(seen, "cause", None) or seen.__cause__
    return seen or error


def num_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits; in other threads, where it never comes, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _remove_abandoned() -> None:
    """Remove the temporary folders of clray processes that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMP_PREFIX}*"):
        pid = path.name.removeprefix(_TEMP_PREFIX).partition("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _remove(folder: Path) -> None:
    """Remove a folder that dying processes may still write to."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
