"""Slots: long-lived Ray Train worker groups that run one trial after another.

A slot is one Ray Train run. Its workers ask the dispatcher (one actor for all slots) for a trial,
run it with ``clray.trial.run``, hand its records back and ask for the next. On a Ray of our own
there are as many slots as fit, and when a worker dies, Ray Train starts the group anew, the
dispatcher repeats what the slot was at, and the trial goes on from its stored checkpoint. On a
cluster slots follow the machines (``clray.keeper``), and a trial whose slot is lost goes on in
another. Whoever waits for the trial notices nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from clray import ray_session, trial
from clray.capacity import NodeType, refuse_impossible, slots_on
from clray.dispatcher import Dispatcher
from clray.errors import RunFailed
from clray.events import (
    SlotsReady,
    SlotsStarting,
    TrialEnded,
    TrialStarted,
    Warned,
    Watch,
)
from clray.keeper import Keeper, bundles
from clray.outcome import Outcome
from clray.seen import Seen
from clray.slot_worker import SlotWorker
from clray.spec import Resources, Storing, TrialSpec
from clray.store import Folder, trial_folder
from clray.work import Work, in_turn

# isort: split
import ray  # after ray_session has set what it reads
import ray.train
import ray.train.torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Heard = Callable[[int, str], None]
"""Is told a trial's number and that a slot has "taken" it, or that it is "waiting" again."""

GRACE = 60.0
"""The loss of a machine is known so many seconds after that of its workers, at the latest."""
LEAVING = 60.0
"""Seconds that slots are given to end."""


class Slots:
    """The slots of a job, and the Ray that they run on: started on entry, gone on exit.

    Args:
        resources: what each slot holds, and how many there are at most.
        results: where trials are stored.
        storing: what is kept of each.
        watch: is told when slots start and are ready, from another thread too.

    Raises:
        BadResources: not even one slot fits, or ever can.
        RunFailed: no slot could be started.
    """

    def __init__(self, resources: Resources, results: str, storing: Storing, watch: Watch) -> None:
        self.resources, self.storing, self.watch = resources, storing, watch
        self.results = Folder(results).uri  # workers stand in other folders
        self.threads: list[threading.Thread] = []
        self.keeper: Keeper | None = None
        self.heard: dict[str, Heard] = {}
        self.sign: str | None = None
        self.temp: Path | None = None

    def __enter__(self) -> Self:
        if ray_session.is_own():
            check_here(self.resources)
        self.watch(SlotsStarting(self.resources.slots))
        start = time.monotonic()
        try:
            self.temp = ray_session.start()
            self.node = ray.get_runtime_context().get_node_id()
            if ray_session.is_own():
                self._start_fixed()
                self.watch(SlotsReady(time.monotonic() - start))
            else:
                self._start_following()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C while cleaning up would leave processes behind.
        with ray_session.uninterrupted():
            if self.keeper is not None:
                self.keeper.stop()
                self.threads += self.keeper.threads()
            if ray.is_initialized() and self.threads:
                self.dispatcher.close.remote()
                deadline = time.monotonic() + LEAVING
                for thread in self.threads:  # one that outlives Ray would abort the process
                    thread.join(timeout=max(0.0, deadline - time.monotonic()))
            if self.sign is not None:
                Folder(self.results).delete(self.sign)
            if self.temp is not None:
                ray_session.stop(self.temp)

    def here(self) -> dict[str, Any]:
        """What a placement group on a cluster takes to stay on this machine."""
        chosen = {"bundle_label_selector": [{"ray.io/node-id": self.node}]}
        return {} if ray_session.is_own() else chosen

    def _start_fixed(self) -> None:
        """As many slots as fit. The first one, and the others once it is ready: each start keeps
        a CPU busy for ten seconds, and the first trials need not wait for all of them."""
        self.count = slots_on(self.resources, [NodeType("this", ray.cluster_resources(), 1)])
        if self.count < self.resources.slots:
            text = f"{self.count} of {self.resources.slots} slots fit; proposals stay the same"
            self.watch(Warned(text))
        self._dispatch(self.count, grace=0.0)
        for slot in range(self.count):
            self._thread(self._keep_fitting, slot)
            if slot == 0:
                broken = ray.get(self.dispatcher.wait_ready.remote())
                if broken is not None:
                    if "fatal" in broken:
                        raise broken["fatal"]
                    raise RunFailed(f"no slot could be started: {broken['error']}")

    def _start_following(self) -> None:
        """Slots that follow the cluster: started when trials are queued."""
        refuse_impossible(self.resources, ray_session.machines(self.resources))
        self.count = self.resources.slots
        folder = Folder(self.results)
        if folder.is_local:
            self.sign = f".seen-by-all-{uuid.uuid4().hex}"
            folder.write(self.sign, b"")
        self._dispatch(0, GRACE)
        self.keeper = Keeper(self.dispatcher, self.resources, self._fit, self.watch)
        self.keeper.start()

    def _dispatch(self, slots: int, grace: float) -> None:
        """Start the dispatcher on this machine, which the job does not outlive anyway."""
        here = NodeAffinitySchedulingStrategy(self.node, soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)(Dispatcher)
        self.dispatcher = actor.remote(slots, grace)
        self._thread(self._listen)

    def _thread(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        thread.start()
        self.threads.append(thread)

    def _listen(self) -> None:
        """Pass on what becomes of trials."""
        count = 0
        with contextlib.suppress(ray.exceptions.RayError):
            while (news := ray.get(self.dispatcher.news.remote(count))) is not None:
                count += len(news)
                for group, number, what in news:
                    if group in self.heard:
                        self.heard[group](number, what)

    def _keep_fitting(self, slot: int) -> None:
        error = self._fit(slot, most=-1)
        self.dispatcher.lose.remote(slot, error or "its Ray Train run ended")

    def _fit(self, slot: int, most: int = 0) -> str:
        """Run a slot until it ends; what went wrong, or ""."""
        holds = bundles(self.resources)
        # One worker has nobody to talk to, and on the CPU they talk through gloo.
        talks = self.resources.gpus_per_worker and len(holds) > 1 and self.resources.device != "cpu"
        trainer = ray.train.torch.TorchTrainer(
            work,
            train_loop_config={
                "slot": slot,
                "dispatcher": self.dispatcher,
                "results": self.results,
                "sign": None if self.sign is None else (self.node, self.sign),
                "storing": self.storing.model_dump(),
                "resources": self.resources.model_dump(),
            },
            torch_config=ray.train.torch.TorchConfig(backend=None if talks else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=len(holds),
                use_gpu=self.resources.gpus_per_worker > 0,
                resources_per_worker=holds[0],
            ),
            run_config=ray.train.RunConfig(
                name=f"slot-{slot}",
                storage_path=str(self.temp),
                failure_config=ray.train.FailureConfig(
                    max_failures=most, controller_failure_limit=most
                ),
            ),
        )
        try:
            trainer.fit()
        except Exception as raised:
            failures = getattr(raised, "worker_failures", None)
            cause = next(iter(failures.values())) if failures else raised
            cause = getattr(cause, "controller_failure", cause)
            return f"{type(cause).__name__}: {cause}".splitlines()[0]
        return ""

    def run(
        self,
        take: Callable[[], Work | None],
        on_record: Callable[[int, dict[str, Any]], None],
        heard: Heard | None = None,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Run trials, as many at once as there are slots.

        Args:
            take: gives the next trial, or None; asked again whenever one has ended.
            on_record: is told (index, record) as tasks are learned; trials count from 0.
            heard: is told, from another thread, which trials slots are at.

        Yields:
            (index, outcome), as trials end.
        """
        group = f"direct-{time.monotonic_ns()}"
        if heard is not None:
            self.heard[group] = heard
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

    resources = Resources(**config["resources"])
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    device = torch.device("cpu")
    if resources.gpus_per_worker and resources.device == "auto" and torch.cuda.is_available():
        device = ray.train.torch.get_device()
        if resources.gpus_per_worker < 1:
            torch.cuda.set_per_process_memory_fraction(resources.gpus_per_worker, device)
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    SlotWorker(config, rank, world, device).serve()


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
        report = trial.watching(spec, watch)
        seen = Seen(watch)
        seen.know(0, TrialStarted(label, "test", 0))

        def on_record(number: int, record: dict[str, Any]) -> None:
            seen.start(number)
            report(record)

        [(_, ended)] = slots.run(in_turn([Work.of(spec)]), on_record, seen.hear)
        seen.end(0)
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
    refuse_impossible(resources, [NodeType("this machine", have, 1)])
