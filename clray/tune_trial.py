"""The thin trial that Ray Tune runs: it waits for a slot, and passes the slot's records on.

It stands in a file of its own, since the process that hosts it needs neither torch nor Optuna.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import tune


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Hands its work to the dispatcher, and reports once per task, per run and at the end.

    The reports hold ``run`` and ``task`` (tasks learned by it) and ``average_accuracy``. What a
    scheduler decides on, ``score`` with ``step``, stands only where it may: after each task of the
    only run where it cuts tasks, at the end of each rung where it cuts epochs. The last one has the
    outcome's ``state`` and ``error``.
    """

    def setup(
        self, config: dict[str, Any], dispatcher: Any, group: str, by: str | None, hosts: int
    ) -> None:
        """Queue the first trial.

        Args:
            config: ``number``, ``work`` and ``keys`` of the trial.
            dispatcher: the actor that gives trials to slots.
            group: names this search.
            by: what the scheduler cuts: task, epoch, or None.
            hosts: see ``clray.dispatcher.Dispatcher.next``.
        """
        self.dispatcher, self.group, self.by, self.hosts = dispatcher, group, by, hosts
        self._submit(config)

    def _ask(self, name: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.dispatcher, name).remote(*arguments))

    def _submit(self, config: dict[str, Any]) -> None:
        self.work: dict[str, Any] = config["work"]
        self.ticket = f"{self.group}-{config['number']}"
        self.seen, self.ended = 0, False
        self.last: dict[str, Any] = {}
        keys = config["keys"]
        self._ask("submit", self.ticket, self.work, keys, self.group, config["number"])

    def step(self) -> dict[str, Any]:
        """Wait for the trial's next event and report it."""
        kind, event = self._ask("next", self.ticket, self.seen, self.hosts, os.getpid())
        self.seen += 1
        if kind == "ended":
            self.ended = True
            return {**self.last, **event, "kind": kind, "done": True}  # the median rule reads it
        metrics = event.get("metrics", {})
        told = {"kind": kind, "run": event["run"], "task": event.get("task", -1) + 1}
        told["average_accuracy"] = metrics.get("average_accuracy")
        value = metrics.get(self.work["metric"])
        if value is not None and self._is_step(kind, event["run"]):
            epochs = self.work["runs"][event["run"]]["protocol"]["epochs"]
            step = event["task"] + 1 if kind == "record" else epochs
            self.last = {"score": self.work["sign"] * value, "step": step}
            told |= self.last
        return told

    def _is_step(self, kind: str, run: int) -> bool:
        """Whether a scheduler may decide now."""
        if self.by == "task":
            return kind == "record" and run == 0
        first = len(self.work["runs"]) - self.work["repeats"]
        return self.by == "epoch" and kind == "ran" and run <= first

    def _abandon(self) -> None:
        """Tell the slot to stop a trial that Tune stopped."""
        if not self.ended:
            self._ask("stop", self.ticket)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Go on with another trial in the same process."""
        self._abandon()
        self._submit(new_config)
        return True

    def cleanup(self) -> None:
        """Leave nothing running."""
        self._abandon()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the slot's trial keeps its own."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the slot's trial keeps its own."""
