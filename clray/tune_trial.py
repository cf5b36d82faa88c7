"""The thin trial that Ray Tune runs: it waits for a slot, and passes the slot's records on.

It stands in a file of its own, since the process that hosts it needs neither torch nor Optuna.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray import tune


class TuneTrial(tune.Trainable):  # type: ignore[misc]
    """Hands its spec to the dispatcher, and reports once per task and once at the end.

    The reports: ``task`` (tasks learned), the objective and ``average_accuracy`` so far, ``trace``
    (the objective after each task); the last one also has the outcome's ``state`` and ``error``.
    """

    def setup(
        self, config: dict[str, Any], dispatcher: Any, group: str, objective: str, hosts: int
    ) -> None:
        """Queue the first trial.

        Args:
            config: ``number``, ``spec`` and ``key`` of the trial.
            dispatcher: the actor that gives trials to slots.
            group: names this search.
            objective: the metric that is searched for.
            hosts: see ``clray.dispatcher.Dispatcher.next``.
        """
        self.dispatcher, self.group, self.hosts = dispatcher, group, hosts
        self.objective = objective
        self._submit(config)

    def _ask(self, name: str, *arguments: Any) -> Any:
        return ray.get(getattr(self.dispatcher, name).remote(*arguments))

    def _submit(self, config: dict[str, Any]) -> None:
        number = config["number"]
        self.ticket = f"{self.group}-{number}"
        self.seen, self.ended = 0, False
        self.last = {"task": 0, self.objective: 0.0, "average_accuracy": 0.0, "trace": []}
        self._ask("submit", self.ticket, config["spec"], config["key"], self.group, number)

    def step(self) -> dict[str, Any]:
        """Wait for the trial's next event and report it."""
        kind, event = self._ask("next", self.ticket, self.seen, self.hosts, os.getpid())
        self.seen += 1
        if kind == "ended":
            self.ended = True
            return {**self.last, **event, "done": True}
        metrics = event.get("metrics", {})
        value = metrics.get(self.objective)
        if value is not None:
            self.last = {
                "task": event["task"] + 1,
                "average_accuracy": metrics["average_accuracy"],
                self.objective: value,
                "trace": [*self.last["trace"], value],  # type: ignore[misc]
            }
        return dict(self.last)

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
