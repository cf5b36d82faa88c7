"""Running statistics of normalisations, of which each task keeps its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

Statistics = dict[str, Tensor]


class TaskStatistics:
    """The statistics that are being learned, and those that tasks have kept.

    Args:
        norms: normalisations that keep running statistics, by name; a task's are kept in them.
    """

    def __init__(self, norms: Mapping[str, _NormBase]) -> None:
        self.norms = norms
        self._set_aside: Statistics | None = None

    def reset(self) -> None:
        """Begin a task's."""
        for norm in self.norms.values():
            norm.reset_running_stats()

    def now(self) -> Statistics:
        """As they are, copied; by the normalisation's name and theirs."""
        return {
            f"{path}.{statistic}": norm.get_buffer(statistic).clone()
            for path, norm in self.norms.items()
            for statistic in STATISTICS
        }

    def keep(self, name: str, statistics: Statistics) -> None:
        """End a task with these."""
        self._set(statistics)
        for path, norm in self.norms.items():
            for statistic in STATISTICS[:2]:
                kept = statistics[f"{path}.{statistic}"]
                norm.register_buffer(f"{statistic}_{name}", kept.clone())

    def show(self, name: str) -> None:
        """Put those of a task in place, until another's are, or ``learn``."""
        if self._set_aside is None:
            self._set_aside = self.now()
        self._set(
            {
                f"{path}.{statistic}": norm.get_buffer(f"{statistic}_{name}")
                for path, norm in self.norms.items()
                for statistic in STATISTICS[:2]
            }
        )

    def learn(self) -> None:
        """Go on with those that are being learned."""
        if self._set_aside is not None:
            self._set(self._set_aside)
        self._set_aside = None

    def _set(self, statistics: Statistics) -> None:
        for path, norm in self.norms.items():
            for statistic in STATISTICS:
                value = statistics.get(f"{path}.{statistic}")
                if value is not None:
                    norm.get_buffer(statistic).copy_(value)
