"""The Ray that clray runs on: one that is there (``RAY_ADDRESS``), or one of its own, which is gone
afterwards."""

from __future__ import annotations

import contextlib
import fcntl
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
import yaml  # noqa: E402

from clray.capacity import NodeType, slots_on  # noqa: E402
from clray.errors import BadInput  # noqa: E402
from clray.spec import Resources  # noqa: E402

_TEMP_PREFIX = "clray-ray-"
_LOCK = "alive"
_RAY = str(Path(ray.__file__).parent)
_held: dict[Path, int] = {}
AUTOSCALER_SECONDS = 8.0
"""What an autoscaler may add is known so long after its cluster has started."""


def is_own() -> bool:
    """Whether clray starts a Ray of its own, on this machine."""
    return "RAY_ADDRESS" not in os.environ


def start() -> Path:
    """Connect to Ray, or start one; its temporary folder, for ``stop``."""
    remove_abandoned()
    # Short, since it holds sockets, whose paths may have 107 characters; with our process
    # number, so that what a killed clray left behind is known as such.
    temp = Path(tempfile.mkdtemp(prefix=f"{_TEMP_PREFIX}{os.getpid()}-"))
    _hold(temp)
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
            # What was granted to a slot may be gone when it starts: it then waits anew.
            os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
            ray.init(log_to_driver=False, logging_level="ERROR")
    except BaseException:
        stop(temp)
        raise
    return temp


def machines(resources: Resources) -> list[NodeType]:
    """The machines of the cluster: those that are there, and those that its autoscaler may add.

    Where no slot would fit, the autoscaler is given a few seconds to say what it may do: it starts
    with the cluster.
    """
    deadline = time.monotonic() + AUTOSCALER_SECONDS
    while True:
        there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        found = [NodeType("there", have, 1) for have in there]
        for kind in _allowed():
            same = sum(_is_like(have, kind.resources) for have in there)
            if not kind.resources:  # any but the head may be one of these
                same = len(there) - 1
            found.append(NodeType(kind.name, kind.resources, max(0, kind.most - same)))
        if slots_on(resources, found) or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


def _allowed() -> list[NodeType]:
    """What the autoscaler may bring: as it tells Ray, else as its file says, where it runs on this
    machine. Kubernetes tells nobody."""
    told = ray._private.state.state.get_cluster_config()
    if told is not None and told.node_group_configs:
        groups = told.node_group_configs
        return [NodeType(g.name, dict(g.resources), _most(g.max_count)) for g in groups]
    if "RAY_CLUSTER_NAME" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        return [NodeType("Kubernetes", {}, 1)]
    path = _autoscaler_file()
    if path is None:
        return []
    config = yaml.safe_load(path.read_text())
    most = config.get("max_workers", 0)
    return [
        NodeType(name, kind.get("resources") or {}, min(most, kind.get("max_workers", most)))
        for name, kind in config.get("available_node_types", {}).items()
    ]


def _most(count: int) -> int:
    return count if count >= 0 else 1_000_000  # no limit


def _is_like(have: dict[str, float], kind: dict[str, float]) -> bool:
    return all(have.get(name, 0.0) == kind.get(name, 0.0) for name in ("CPU", "GPU"))


def _autoscaler_file() -> Path | None:
    """The file that the cluster's autoscaler was started with, if its process is seen here."""
    address = ray.get_runtime_context().gcs_address
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            options = dict(word.partition("=")[::2] for word in words)
            given = Path(options.get("--autoscaling-config") or "/").expanduser()
            if options.get("--gcs-address") == address and given.is_file():
                return given
    return None


def stop(temp: Path) -> None:
    """Leave Ray, and remove what it wrote to its temporary folder."""
    if ray.is_initialized():
        ray.shutdown()
    _remove(temp)
    if (lock := _held.pop(temp, None)) is not None:
        os.close(lock)


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


def _hold(temp: Path) -> None:
    """Show that we are alive. A process number would not do: in another container, or another
    namespace of process numbers, that shares the folder, nobody has it."""
    _held[temp] = os.open(temp / _LOCK, os.O_CREAT | os.O_RDWR)
    fcntl.flock(_held[temp], fcntl.LOCK_EX)


def remove_abandoned() -> None:
    """Remove what clray processes that were killed left behind: temporary folders, and processes of
    Ray. Its agents try for a minute to tell the head of its own death, and workers that are just
    starting to find it."""
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMP_PREFIX}*"):
        with contextlib.suppress(OSError):  # no lock yet, or somebody else's folder
            lock = os.open(path / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for process in _writing_to(path.resolve()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                _remove(path)
            finally:
                os.close(lock)


def _writing_to(folder: Path) -> Iterator[int]:
    """Ray's processes that hold a file of the folder open, as far as ``/proc`` tells."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone, or somebody else's
            command = (process / "cmdline").read_text(errors="replace")
            if (command.startswith("ray::") or _RAY in command) and any(
                file.readlink().is_relative_to(folder) for file in (process / "fd").iterdir()
            ):
                yield int(process.name)


def _remove(folder: Path) -> None:
    """Remove a folder that dying processes may still write to."""
    for _ in range(50):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
