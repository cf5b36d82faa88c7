"""What can go wrong, and what a person is told.

::

    ClrayError                  exit code 1
    ├── RunFailed               a trial, a slot or a job did not end as it should
    │   ├── Leak                a trial touched data that its selection protocol forbids
    │   ├── BrokenPromise       tasks that a method said it learns apart depend on one another
    │   └── StorageFailed       results cannot be written or read any more; an OSError too
    └── BadInput                exit code 2: nothing was started, nothing was written
        ├── BadSpec             a field of a spec, a job, a search space or an override
        │   └── Infeasible      a value that a network or a stream leaves no room for
        ├── UnknownName         no method, benchmark, model, space, job or dataset of that name
        ├── BadData             a dataset, file or folder that is missing, damaged or out of reach
        ├── BadResources        a request that this machine or cluster can never satisfy
        └── Unreachable         a cluster that does not answer
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ClrayError(Exception):
    """Anything that clray reports to a person without a traceback."""

    exit_code = 1


class RunFailed(ClrayError):
    """Something that had started did not end as it should; finished work is kept."""


class Leak(RunFailed):
    """A trial touched data that its selection protocol forbids: a mistake in a method or in clray.

    Args:
        protocol: whose rule was broken.
        what: the trial did.
    """

    def __init__(self, protocol: str, what: str) -> None:
        super().__init__(f"{protocol}: a trial {what}")
        self.protocol, self.what = protocol, what

    def __reduce__(self) -> tuple[object, ...]:
        return (Leak, (self.protocol, self.what))


class BrokenPromise(RunFailed):
    """A method that says it learns tasks apart answers one otherwise once it has learned others.

    Args:
        method: its name.
        task: name of the task.
        before, now: accuracy on it when it was learned, and at the end of the stream.
    """

    def __init__(self, method: str, task: str, before: float, now: float) -> None:
        super().__init__(
            f"method {method}: independent_after_first is a promise that it does not keep: accuracy"
            f" on task {task!r} was {before:.4f} when it was learned and is {now:.4f} at the end"
        )
        self.method, self.task, self.before, self.now = method, task, before, now

    def __reduce__(self) -> tuple[object, ...]:
        return (BrokenPromise, (self.method, self.task, self.before, self.now))


class StorageFailed(RunFailed, OSError):
    """Files cannot be written or read: a full disk, a refused bucket, an expired token, no answer.

    An OSError as well, for those who can do without the file.

    Args:
        where: the file or folder.
        happened: what, in a person's words.
        advice: what to do about it.
    """

    def __init__(self, where: str, happened: str, advice: str) -> None:
        kept = "what is stored stays as it is, and the same command goes on from there"
        super().__init__(f"{where}: {happened}; {advice} ({kept})")
        self.where, self.happened, self.advice = where, happened, advice

    def __reduce__(self) -> tuple[object, ...]:
        return (StorageFailed, (self.where, self.happened, self.advice))


class BadInput(ClrayError):
    """Input that cannot be used: where it stands, what was given, what is accepted.

    Args:
        where: file and field, option or argument, e.g. ``jobs/a.yaml: protocol.epochs``.
        given: the offending value, shown with ``repr``.
        accepted: a phrase, or the accepted names (then the nearest to ``given`` is suggested).
    """

    exit_code = 2

    def __init__(self, where: str, given: object, accepted: str | Iterable[str]) -> None:
        self.where, self.given = where, given
        if isinstance(accepted, str):
            self.accepted, nearest = accepted, ""
        else:
            names = sorted(accepted)
            self.accepted = ", ".join(names) if names else "nothing"
            nearest = nearest_name(str(given), names)
        message = f"{where}: got {given!r}; accepted: {self.accepted}"
        super().__init__(f"{message}. Did you mean {nearest!r}?" if nearest else message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.where, self.given, self.accepted, str(self)))


class BadSpec(BadInput):
    """A field of a spec, a job, a search space or an override is not acceptable."""


class Infeasible(BadSpec):
    """A knob's value that this network or stream leaves no room for, which is known once it is
    built: where values are searched, one that is infeasible fails alone."""


class UnknownName(BadInput):
    """Nothing goes by the name that was given."""


class BadData(BadInput):
    """A dataset, file or folder is missing, damaged or out of reach."""


class BadResources(BadInput):
    """The machine or cluster can never provide what was asked for."""


class Unreachable(BadInput):
    """A cluster that does not answer."""


def nearest_name(given: str, names: Iterable[str]) -> str:
    """The name most like ``given``, or "" when none is close."""
    close = difflib.get_close_matches(given, list(names), n=1, cutoff=0.6)
    return close[0] if close else ""


def _rebuild(cls: type[BadInput], where: str, given: object, accepted: str, text: str) -> BadInput:
    error = cls(where, given, accepted)
    error.args = (text,)
    return error
