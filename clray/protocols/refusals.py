"""What a selection protocol refuses before anything starts, beside what its views refuse."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from clray import registry
from clray.errors import BadInput, BadSpec
from clray.objective import CONTINUAL
from clray.parsing import parse
from clray.plan import put_over, rungs
from clray.protocols.boards import Board
from clray.samplers import LEARNING
from clray.selection import Chf, FirstK, Gtep, TwoStage
from clray.spec import TrialSpec


def check_search(board: Board) -> None:
    """Refuse settings of a search that this board cannot serve, or that would have no effect.

    Raises:
        BadSpec: one of them.
    """
    search, selection = board.job.search, board.selection
    asked = [*(o.metric for o in search.objective), *(c.metric for c in search.constraints)]
    unmeasured = [metric for metric in asked if metric in CONTINUAL]
    if unmeasured and any(one.base.protocol.evaluation is None for one in board.contenders):
        accepted = "a measure of where tasks end, or protocol.evaluation, such as {every: 10}"
        raise board.refuse("search.objective", unmeasured[0], accepted)
    if search.warm_start and search.sampler not in LEARNING:
        raise BadSpec("search.sampler, with warm_start", search.sampler, LEARNING)
    if isinstance(selection, TwoStage) and selection.method is not None:
        with about(f"{board.where}: method"):
            registry.find("method", selection.method.name)
    early = search.early
    if early is None or isinstance(selection, TwoStage) or selection.dynamic:
        return
    if early.by == "task":
        learned = selection.k if isinstance(selection, FirstK) else board.num_tasks
        if isinstance(selection, Gtep) and selection.tune_on == "first-half":
            learned = board.num_tasks // 2
        if learned < 2:
            accepted = "none, or a search over 2 tasks or more: nobody can stop before the end"
            raise board.refuse("search.scheduler", early.name, accepted)
    for one in board.contenders if early.by == "epoch" else ():
        epochs = one.base.protocol.epochs
        if one.base.protocol.updates is not None:
            accepted = "none, or protocol.epochs in place of protocol.updates: what rungs cut"
            raise board.refuse("search.scheduler, by epoch", early.name, accepted)
        if "protocol.epochs" not in one.space.searched and len(rungs(search, epochs)) == 1:
            accepted = f"none, or more than {epochs} of protocol.epochs: there is no earlier rung"
            raise board.refuse("search.scheduler, by epoch", early.name, accepted)


def check_partial(board: Board) -> None:
    """Refuse a benchmark of which no part can be looked at alone.

    Raises:
        BadSpec: such a one.
    """
    if board.benchmark.graded_together:
        accepted = "a benchmark whose tasks are graded each on examples of its own"
        raise board.refuse("benchmark", board.contenders[0].base.benchmark.name, accepted)
    for knob, value in board.benchmark.model_dump(mode="json").items():
        if value == "trial-seed":
            accepted = "an order that all seeds share (final.orders permutes the reported tasks)"
            raise board.refuse(f"benchmark.{knob}", value, accepted)


def check_chf(board: Board, selection: Chf) -> None:
    """Refuse a yardstick that cannot learn here, methods that it cannot be applied to, and starts
    of knobs that cannot decay.

    Raises:
        BadInput: one of them.
    """
    for contender in board.contenders:
        name = contender.base.method.name
        if not registry.find("method", name).learner.hands_over:
            usable = "methods whose network fine-tuning can go on with, as a yardstick"
            raise board.refuse(f"methods.{contender.label}", name, usable)
    if selection.method is not None:
        for contender in board.contenders:
            with about(f"{board.where}: method"):
                registry.complete(
                    contender.base.model_copy(update={"method": selection.method, "changes": ()})
                )
    decaying = [
        (path, contender)
        for contender in board.contenders
        for path in contender.space.searched
        if registry.tag(contender.base, path) == "stability"
    ]
    for path, value in selection.start.items():
        owners = [contender for own, contender in decaying if own == path]
        if not owners:
            names = [own for own, _ in decaying]
            accepted = names or "nothing: no stability knob is searched"
            raise board.refuse("start", path, accepted)
        where = f"{board.where}: start: {path}"
        if isinstance(value, str | bool):
            raise BadSpec(where, value, "a number, which can decay")
        for contender in owners:
            low = (contender.space.searched[path].range or (value, value))[0]
            if value < low:
                raise BadSpec(where, value, f"{low:g} or more: the searched range ends there")
            plain = put_over(contender.base.model_dump(mode="json"), {path: value})
            with about(f"{board.where}: start"):
                registry.complete(parse(TrialSpec, plain, contender.label))


@contextlib.contextmanager
def about(where: str) -> Iterator[None]:
    """Puts ``where`` before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        error.args = (f"{where}: {error}",)
        raise
