"""Slots: long-lived Ray Train worker groups that run one trial after another.

A slot is one Ray Train run. Its workers ask the dispatcher (one actor for all slots) for a trial,
run it with ``clray.trial.run``, hand its records back and ask for the next. When a worker dies, Ray
Train starts the group anew, the dispatcher repeats what the slot was at, and the trial goes on from
its stored checkpoint: whoever waits for the trial notices nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from clray import ray_session, trial
from clray.dispatcher import Dispatcher
from clray.distributed import Distributed
from clray.errors import BadInput, BadResources, Leak, RunFailed
from clray.events import SlotsReady, SlotsStarting, TrialEnded, TrialStarted, Warned, Watch
from clray.outcome import Interrupted, Outcome
from clray.spec import Resources, Storing, TrialSpec
from clray.store import trial_folder
from clray.work import Work, in_turn

# isort: split
import ray  # after ray_session has set what it reads
import ray.train
import ray.train.torch


class Slots:
    """The slots of a job, and the Ray that they run on: started on entry, gone on exit.

    Args:
        resources: what each slot holds, and how many there are at most.
        results: where trials are stored.
        storing: what is kept of each.
        watch: is told when slots start and are ready.

    Raises:
        BadResources: not even one slot fits.
        RunFailed: no slot could be started.
    """

    def __init__(self, resources: Resources, results: str, storing: Storing, watch: Watch) -> None:
        self.resources, self.results, self.storing, self.watch = resources, results, storing, watch
        self.threads: list[threading.Thread] = []
        self.temp: Path | None = None

    def __enter__(self) -> Self:
        if ray_session.is_own():
            check_here(self.resources)
        self.watch(SlotsStarting(self.resources.slots))
        start = time.monotonic()
        try:
            self.temp = ray_session.start()
            self.count = _how_many(self.resources, ray.cluster_resources())
            if self.count < self.resources.slots:
                text = f"{self.count} of {self.resources.slots} slots fit; proposals stay the same"
                self.watch(Warned(text))
            self._start_slots()
        except BaseException:
            self.__exit__()
            raise
        self.watch(SlotsReady(time.monotonic() - start))
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C while cleaning up would leave processes behind.
        with ray_session.uninterrupted():
            if ray.is_initialized() and self.threads:
                self.dispatcher.close.remote()
                for thread in self.threads:  # one that outlives Ray would abort the process
                    thread.join(timeout=60)
            if self.temp is not None:
                ray_session.stop(self.temp)

    def _start_slots(self) -> None:
        """Start the first slot, and the others once it is ready: each start keeps a CPU busy for
        ten seconds, and the first trials need not wait for all of them."""
        actor = ray.remote(num_cpus=0, max_concurrency=10_000)(Dispatcher)
        self.dispatcher = actor.remote(self.count)
        for slot in range(self.count):
            thread = threading.Thread(target=self._fit, args=(slot,), daemon=True)
            thread.start()
            self.threads.append(thread)
            if slot == 0:
                failure = ray.get(self.dispatcher.wait_ready.remote())
                if failure is not None:
                    raise RunFailed(f"no slot could be started: {failure}")

    def _fit(self, slot: int) -> None:
        per_worker = {"CPU": self.resources.cpus_per_worker}
        if self.resources.gpus_per_worker:
            per_worker["GPU"] = self.resources.gpus_per_worker
        trainer = ray.train.torch.TorchTrainer(
            work,
            train_loop_config={
                "slot": slot,
                "dispatcher": self.dispatcher,
                "results": self.results,
                "storing": self.storing.model_dump(),
                "resources": self.resources.model_dump(),
                "threads": max(1, int(self.resources.cpus_per_worker)),
                "gpu_share": self.resources.gpus_per_worker,
            },
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.resources.workers,
                use_gpu=self.resources.gpus_per_worker > 0,
                resources_per_worker=per_worker,
            ),
            run_config=ray.train.RunConfig(
                name=f"slot-{slot}",
                storage_path=str(self.temp),
                failure_config=ray.train.FailureConfig(max_failures=-1),
            ),
        )
        error = "its Ray Train run ended"
        try:
            trainer.fit()
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}".splitlines()[0]
        self.dispatcher.lose.remote(slot, error)

    def run(
        self, take: Callable[[], Work | None], on_record: Callable[[int, dict[str, Any]], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run trials, as many at once as there are slots.

        Args:
            take: gives the next trial, or None; asked again whenever one has ended.
            on_record: is told (index, record) as tasks are learned; trials count from 0.

        Yields:
            (index, outcome), as trials end.
        """
        group = f"direct-{time.monotonic_ns()}"
        waiting: dict[Any, tuple[int, int]] = {}
        numbers = itertools.count()

        def submit() -> None:
            while (work := take()) is not None:
                index, plain = next(numbers), work.model_dump(mode="json")
                ticket = f"{group}-{index}"
                ray.get(self.dispatcher.submit.remote(ticket, plain, work.keys, group, index))
                waiting[self.dispatcher.next.remote(ticket, 0)] = (index, 0)

        submit()
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=0.5)
            for reference in ready:
                index, count = waiting.pop(reference)
                kind, event = ray.get(reference)
                if kind == "ended":
                    yield index, event
                    submit()
                    continue
                if kind == "record":
                    on_record(index, event)
                reference = self.dispatcher.next.remote(f"{group}-{index}", count + 1)
                waiting[reference] = (index, count + 1)


def work(config: dict[str, Any]) -> None:
    """What each worker of a slot does until the dispatcher is closed."""
    import torch

    torch.set_num_threads(config["threads"])
    device = ray.train.torch.get_device()
    if device.type == "cuda" and config["gpu_share"] < 1:
        torch.cuda.set_per_process_memory_fraction(config["gpu_share"], device)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    slot, dispatcher, count = config["slot"], config["dispatcher"], 0
    group = Distributed().broadcast(uuid.uuid4().hex)
    storing = Storing(**config["storing"])
    resources = Resources(**config["resources"])
    closed = threading.Event()

    def watch_for_close() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(dispatcher.wait_closed.remote())
        closed.set()

    threading.Thread(target=watch_for_close, daemon=True).start()

    while True:
        order = ray.get(dispatcher.take.remote(slot, rank, group, count))
        if order is None:
            return
        count, plain = order
        work = Work.model_validate(plain)
        ended: dict[str, Any] = {}
        failed: Exception | None = None
        for index, spec in enumerate(work.runs):

            def report(record: dict[str, Any], run: int = index, work: Work = work) -> bool:
                wait = work.waits == "task"
                go_on: bool = ray.get(dispatcher.record.remote(slot, run, record, wait))
                return go_on

            folder = trial_folder(config["results"], spec.key)
            try:
                outcome = trial.run(
                    spec,
                    folder,
                    report,
                    storing,
                    device,
                    closed.is_set,
                    resources,
                    work.permission,
                    work.keep,
                )
            except Interrupted:
                if world > 1:
                    raise  # the others may wait for this one in a collective call
                return
            except Exception as error:
                failed = error
                folder.write("error.txt", traceback.format_exc().encode())
                ended = _as_failed(error)
                break
            ended = {"state": outcome.state, "metrics": outcome.metrics, "error": outcome.error}
            if outcome.state != "completed" or index == len(work.runs) - 1:
                break
            told = True
            if rank == 0:
                wait = work.waits == "epoch"
                told = ray.get(dispatcher.ran.remote(slot, index, ended, wait))
            if not Distributed().broadcast(told) or work.is_hopeless(index, outcome.metrics):
                ended["state"] = "stopped"
                break
        if rank == 0 or failed is not None:
            ray.get(dispatcher.end.remote(slot, ended))
        if failed is not None and world > 1:
            raise failed  # the same: only a new group can go on


def _as_failed(error: Exception) -> dict[str, Any]:
    """How a run ended that raised; what no other run would do better with is ``fatal``."""
    fatal = isinstance(error, BadInput | Leak)
    text = str(error) if fatal else f"{type(error).__name__}: {error}"
    ended: dict[str, Any] = {"state": "failed", "metrics": {}, "error": text}
    return {**ended, "fatal": error} if fatal else ended


def run_trial(
    spec: TrialSpec, results: str, resources: Resources, storing: Storing, watch: Watch
) -> dict[str, Any]:
    """Run one completed spec on a slot of its own, unless it is stored; what it did, as a plain
    mapping.

    Raises:
        BadInput: the trial's data, or a request that does not fit.
        RunFailed: the slot could not be started.
    """
    folder = trial_folder(results, spec.key)
    known = trial.ended(folder)
    label = spec.method.name
    if known is not None:
        for record in known.records:
            trial.watching(spec, watch)(record)
        watch(TrialEnded(label, "test", 0, known.state, None, stored=True))
        return trial.summary(spec, folder, known, stored=True)
    one = resources.model_copy(update={"slots": 1})
    with Slots(one, results, storing, watch) as slots:
        watch(TrialStarted(label, "test", 0))
        report = trial.watching(spec, watch)

        def on_record(_: int, record: dict[str, Any]) -> None:
            report(record)

        [(_, ended)] = slots.run(in_turn([Work.of(spec)]), on_record)
    if "fatal" in ended:
        raise ended["fatal"]
    watch(TrialEnded(label, "test", 0, ended["state"], None, error=ended["error"]))
    outcome = trial.ended(folder) or Outcome(ended["state"], error=ended["error"])
    return trial.summary(spec, folder, outcome, stored=False)


def check_here(resources: Resources) -> None:
    """Refuse what this machine cannot give to even one slot.

    Raises:
        BadResources: too few CPUs or GPUs.
    """
    import torch

    have = {"CPU": float(ray_session.num_cpus()), "GPU": float(torch.cuda.device_count())}
    _how_many(resources, have)


def _how_many(resources: Resources, have: dict[str, float]) -> int:
    """How many slots fit, at most those asked for.

    Raises:
        BadResources: none.
    """
    fits = float(resources.slots)
    for name, field_name in (("CPU", "cpus_per_worker"), ("GPU", "gpus_per_worker")):
        need = resources.workers * getattr(resources, field_name)
        if need > have.get(name, 0.0):
            where = f"resources: workers x {field_name}"
            raise BadResources(
                where, need, f"at most {have.get(name, 0.0):g} {name}s, all there are"
            )
        if need:
            fits = min(fits, have[name] // need)
    return int(fits)
