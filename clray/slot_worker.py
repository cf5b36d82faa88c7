"""What each worker of a slot does: it takes trials from the dispatcher until there are no more."""

from __future__ import annotations

import contextlib
import threading
import traceback
import uuid
from typing import Any

import ray
import torch

from clray import trial
from clray.distributed import Distributed
from clray.errors import (
    BadData,
    BadInput,
    BadResources,
    BrokenPromise,
    Infeasible,
    Leak,
    StorageFailed,
)
from clray.outcome import Interrupted
from clray.spec import Resources, Storing
from clray.store import Folder, trial_folder
from clray.work import Work


class SlotWorker:
    """One worker of a slot.

    Args:
        config: ``slot``, ``dispatcher``, ``results``, ``storing``, ``resources`` and ``sign``: the
            driver's machine and the name of a file that it left in the results, where these are a
            folder and other machines might not see it.
        rank: of this worker in its group.
        world: workers in its group.
        device: where it learns.
    """

    def __init__(self, config: dict[str, Any], rank: int, world: int, device: torch.device) -> None:
        self.slot, self.dispatcher = config["slot"], config["dispatcher"]
        self.results, self.sign = config["results"], config["sign"]
        self.storing = Storing(**config["storing"])
        self.resources = Resources(**config["resources"])
        self.rank, self.world, self.device = rank, world, device
        self.node = ray.get_runtime_context().get_node_id()
        self.group = ""
        self.left = threading.Event()

    def _ask(self, name: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.dispatcher, name).remote(*arguments))

    def serve(self) -> None:
        """Run trials until the slot is to be left.

        Raises:
            BadInput: what this machine lacks for any trial; the dispatcher was told.
            Exception: only a new group of workers can go on.
        """
        self._check_machine()
        self.group = Distributed().broadcast(uuid.uuid4().hex)
        count = 0
        while True:
            order = self._ask("take", self.slot, self.rank, self.group, count, self.node)
            if order is None:
                return
            if count == 0:
                threading.Thread(target=self._watch, daemon=True).start()
            count, plain = order
            if not self._run(Work.model_validate(plain)):
                return

    def _watch(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            self._ask("wait_left", self.slot, self.group)
        self.left.set()

    def _check_machine(self) -> None:
        """Refuse to start where every trial would fail, or where its results would stay."""
        held = self.resources.gpus_per_worker
        error: BadInput | None = None
        if held and self.resources.device == "auto" and self.device.type != "cuda":
            accepted = "a GPU that PyTorch can use on every machine, or resources.device=cpu"
            given = f"{held:g} GPU per worker, and none that PyTorch can use"
            error = BadResources("resources.device", given, accepted)
        if self.sign is not None and self.node != self.sign[0]:
            folder = Folder(self.results)
            if not folder.has(self.sign[1]):
                accepted = "s3://…, gs://…, or a folder that all machines share"
                given = f"{folder.uri}, which another machine of the cluster does not see"
                error = BadData("results", given, accepted)
        if error is not None:
            self._ask("refuse", error)
            raise error

    def _run(self, work: Work) -> bool:
        """Run one trial; whether the slot goes on."""
        ended: dict[str, Any] = {}
        failed: Exception | None = None
        for index, spec in enumerate(work.runs):

            def report(record: dict[str, Any], run: int = index) -> bool:
                wait = work.waits == "task"
                return self._told("record", run, record, wait)

            folder = trial_folder(self.results, spec.key)
            try:
                outcome = trial.run(
                    spec,
                    folder,
                    report,
                    self.storing,
                    self.device,
                    self.left.is_set,
                    self.resources,
                    work.permission,
                    work.keep,
                )
            except Interrupted:
                if self.world > 1:
                    raise  # the others may wait for this one in a collective call
                return False
            except Exception as error:
                noted = _noted(error, folder)
                if self.world > 1 and _between_workers(error):
                    raise  # another one failed, and tells why, or died
                failed = error
                ended = _as_failed(noted, work.lenient)
                break
            ended = {"state": outcome.state, "metrics": outcome.metrics, "error": outcome.error}
            if outcome.state != "completed" or index == len(work.runs) - 1:
                break
            told = True
            if self.rank == 0:
                told = self._told("ran", index, ended, work.waits == "epoch")
            if not Distributed().broadcast(told) or work.is_hopeless(index, outcome.metrics):
                ended["state"] = "stopped"
                break
        if self.rank == 0 or failed is not None:
            self._ask("end", self.slot, self.group, ended)
        if failed is not None and self.world > 1:
            raise failed  # the same: only a new group can go on
        return True

    def _told(self, name: str, run: int, event: dict[str, Any], wait: bool) -> bool:
        """Tell the dispatcher; whether to go on.

        Raises:
            Interrupted: another slot is at this trial, or will be.
        """
        go_on: bool | None = self._ask(name, self.slot, self.group, run, event, wait)
        if go_on is None:
            raise Interrupted
        return go_on


def _between_workers(error: Exception) -> bool:
    """Whether workers could not talk to one another: it was raised inside torch.distributed."""
    trace, names = error.__traceback__, [""]
    while trace is not None:
        names.append(trace.tb_frame.f_globals.get("__name__") or "")
        trace = trace.tb_next
    return names[-1].startswith("torch.distributed")


def _noted(error: Exception, folder: Folder) -> Exception:
    """Store the traceback; the error, or the storage's own."""
    if not isinstance(error, StorageFailed):
        try:
            folder.write("error.txt", traceback.format_exc().encode())
        except StorageFailed as also:
            return also
    return error


def _as_failed(error: Exception, lenient: bool) -> dict[str, Any]:
    """How a run ended that raised; what no other run would do better with is ``fatal``."""
    ours = isinstance(error, BadInput | BrokenPromise | Leak | StorageFailed)
    fatal = ours and not (lenient and isinstance(error, Infeasible))
    text = str(error) if ours else f"{type(error).__name__}: {error}"
    ended: dict[str, Any] = {"state": "failed", "metrics": {}, "error": text}
    return {**ended, "fatal": error} if fatal else ended
