"""What each selection protocol looks at: the table that its trials are held to.

=================  =====================================  ====================================
protocol           its trials are graded on               the final runs learn and report
=================  =====================================  ====================================
end-of-training    validation of the whole stream         the whole stream, on test
oracle             test of the whole stream               the whole stream, on test
first-k            validation of the first k tasks        the other tasks, on test
gtep               validation of other classes            the job's benchmark (or other half)
seen-tasks, at t   validation of tasks up to t; of t      the whole stream, on test
                   alone; or of t and held-out memory
adaptive, at t     as seen-tasks                          the whole stream, on test
chf, at t          validation of task t alone             the whole stream, on test
=================  =====================================  ====================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clray import registry
from clray.errors import BadSpec
from clray.guard import Permission, identity
from clray.job import Orders
from clray.plan import Repeat
from clray.protocols.boards import Board
from clray.protocols.refusals import about, check_chf, check_partial, check_search
from clray.selection import Adaptive, AnySelection, Chf, FirstK, Gtep, Oracle, SeenTasks, TwoStage
from clray.spec import Component, Graded, Split, TrialSpec, derive_seed
from clray.streams.benchmark import BenchmarkConfig
from clray.streams.draws import arrange
from clray.streams.task_orders import ORDERS

GRADED: dict[str, Graded] = {"validation": "seen", "current": "current", "memory": "memory"}
"""How trials are graded, by what a dynamic protocol looks at."""


COSTS = ("growth", "parameters", "bytes", "steps", "examples_seen", "examples_processed")
"""Measures that need no accuracy of old tasks."""


@dataclass(frozen=True)
class View:
    """What the trials of a stage learn and are graded on.

    Attributes:
        protocol: its title.
        benchmark: with every knob.
        places: the tasks of the benchmark, by position, in their first order.
        whole: whether these are all of them.
        split: that they are graded on.
    """

    protocol: str
    benchmark: Component
    places: tuple[int, ...]
    whole: bool
    split: Split

    @property
    def tasks(self) -> tuple[int, ...] | None:
        """As ``TrialSpec.tasks``; none for all."""
        return None if self.whole else self.places

    def of(self, spec: TrialSpec) -> TrialSpec:
        """The trial, as this stage runs it."""
        update = {"benchmark": self.benchmark, "tasks": self.tasks, "split": self.split}
        moved = spec.model_copy(update={**update, "until": None, "graded": "stream"})
        return registry.complete(moved)

    def permission(self, graded: Graded = "stream", up_to: int | None = None) -> Permission:
        """What its trials may read; of the first ``up_to`` tasks alone, if that is given."""
        some = self.places if up_to is None else self.places[:up_to]
        return Permission(
            protocol=self.protocol,
            split=self.split,
            tasks=some,
            graded=graded,
            benchmark=identity(self.benchmark),
        )


def views_of(board: Board) -> tuple[View, View]:
    """What the search of a board sees, and what its final runs see.

    Raises:
        BadSpec: a protocol that this benchmark cannot serve, or a setting of the search.
    """
    check_search(board)
    selection = inner(board.selection)
    component = board.contenders[0].base.benchmark
    everything = tuple(range(board.num_tasks))
    title = board.selection.title

    def view(places: Sequence[int], split: Split, benchmark: Component = component) -> View:
        whole = tuple(places) == everything or benchmark is not component
        return View(title, benchmark, tuple(places), whole, split)

    if isinstance(selection, Oracle):
        return view(everything, "test"), view(everything, "test")
    if isinstance(selection, FirstK):
        check_partial(board)
        if selection.k >= board.num_tasks:
            accepted = f"at most {board.num_tasks - 1}, so that tasks are left to report"
            raise board.refuse("k", selection.k, accepted)
        reported = everything if selection.reuse else everything[selection.k :]
        return view(everything[: selection.k], "validation"), view(reported, "test")
    if isinstance(selection, Gtep):
        return _transferred(board, selection, view(everything, "test"))
    return view(everything, "validation"), view(everything, "test")


def inner(selection: AnySelection) -> AnySelection:
    """The protocol that chooses the method's own knobs."""
    return selection.then if isinstance(selection, TwoStage) else selection


def data_of(selection: AnySelection) -> str:
    """What a dynamic protocol looks at."""
    if isinstance(selection, SeenTasks | Adaptive):
        return selection.data
    if isinstance(selection, Chf):
        return "current"
    raise TypeError(f"{selection.title} chooses once")


def _transferred(board: Board, selection: Gtep, whole: View) -> tuple[View, View]:
    """The views of a choice on other classes."""
    title, own = selection.title, board.benchmark
    if selection.tune_on == "first-half":
        check_partial(board)
        if board.num_tasks < 2:
            raise board.refuse("tune_on", "first-half", "a benchmark of 2 tasks or more")
        half = board.num_tasks // 2
        shown = _shown(board, own, whole.benchmark)
        _check_disjoint(board, shown[:half], shown[half:])
        tuned = View(title, whole.benchmark, whole.places[:half], False, "validation")
        return tuned, View(title, whole.benchmark, whole.places[half:], False, "test")
    other = _tune_on(board, selection.tune_on)
    config: BenchmarkConfig = registry.configure("benchmark", other)
    _check_disjoint(board, _shown(board, config, other), _shown(board, own, whole.benchmark))
    for name, mine, theirs in (
        ("scenario", own.scenario, config.scenario),
        ("number of tasks", board.num_tasks, config.check()),
    ):
        if mine != theirs:
            raise board.refuse(f"tune_on: {name}", theirs, f"{mine}, as on the job's benchmark")
    return View(title, other, tuple(range(config.check())), True, "validation"), whole


def _tune_on(board: Board, component: Component) -> Component:
    """The benchmark that is tuned on, with every knob."""
    spec = board.contenders[0].base.model_copy(update={"benchmark": component})
    names = registry.names("benchmark")
    if "." not in component.name and component.name not in names:
        raise board.refuse("tune_on", component.name, ["first-half", *names])
    with about(f"{board.where}: tune_on"):
        return registry.complete(spec).benchmark


def _shown(board: Board, config: BenchmarkConfig, named: Component) -> list[frozenset[str]]:
    shown = config.shows()
    if shown is None:
        accepted = "benchmarks that can tell which classes their tasks show, whatever the seed"
        raise board.refuse("tune_on", named.name, accepted)
    return shown


def _check_disjoint(
    board: Board, tuned: list[frozenset[str]], reported: list[frozenset[str]]
) -> None:
    shared = sorted(frozenset().union(*tuned) & frozenset().union(*reported))
    if shared:
        given = ", ".join(shared[:3]) + (" and more" if len(shared) > 3 else "")
        accepted = "a benchmark that shares no classes with the one that is reported"
        raise board.refuse("tune_on: classes", given, accepted)


def check_dynamic(board: Board) -> None:
    """Refuse what cannot be chosen anew for each task.

    Raises:
        BadSpec: the benchmark, a method, or a setting of the search.
    """
    if board.benchmark.graded_together:
        check_partial(board)
    search, data = board.job.search, data_of(inner(board.selection))
    if search.early is not None:
        raise board.refuse("search.scheduler", search.early.name, "none: a trial learns one task")
    if search.seeds > 1:
        raise board.refuse("search.seeds", search.seeds, "1: each task forks one learner")
    if search.orders is not None:
        raise board.refuse("search.orders", search.orders, "none: each task forks one learner")
    if search.warm_start:
        accepted = "none: each task forks a learner that no other job has"
        raise board.refuse("search.warm_start", ", ".join(search.warm_start), accepted)
    if len(search.objective) > 1:
        raise board.refuse("search.objective", len(search.objective), "a single one: one goes on")
    metric = search.objective[0].metric
    if data != "validation" and metric not in ("average_accuracy", *COSTS):
        accepted = "average_accuracy (of what is graded), or a cost"
        raise board.refuse(f"search.objective, with data: {data}", metric, accepted)
    for contender in board.contenders if data == "memory" else ():
        if not registry.find("method", contender.base.method.name).learner.uses_memory:
            accepted = "methods that replay from a memory"
            raise board.refuse("data: memory, for method", contender.base.method.name, accepted)
    if isinstance(selection := inner(board.selection), Chf):
        check_chf(board, selection)


def check_stability(board: Board) -> None:
    """Refuse to search a stability knob on a single task.

    Raises:
        BadSpec: one is.
    """
    selection = inner(board.selection)
    if not isinstance(selection, FirstK) or selection.k > 1:
        return
    for contender in board.contenders:
        for path in contender.space.searched:
            if registry.tag(contender.base, path) == "stability":
                accepted = f"2 or more: {contender.label} searches {path}, and one task alone "
                raise board.refuse("k", 1, accepted + "cannot show what holds on to old ones")


def arrangements(
    board: Board, orders: Orders, view: View, purpose: str
) -> list[tuple[str, tuple[int, ...] | None]]:
    """Task orders by name, each as ``TrialSpec.tasks``; one nameless order where none is asked for.

    Raises:
        BadSpec: an order that this benchmark does not have.
    """
    where = f"{purpose}.orders"
    total = max(view.places) + 1 if view.whole else board.num_tasks
    if orders is None:
        return [("", view.tasks)]
    if isinstance(orders, int):
        seeds = [derive_seed(board.job.search.seed, purpose, "order", i) for i in range(orders)]
        return [
            (f"order {i + 1}", _within(arrange(seed, total, 0, where), view))
            for i, seed in enumerate(seeds)
        ]
    found: list[tuple[str, tuple[int, ...] | None]] = []
    for order in orders:
        name = ",".join(map(str, order)) if isinstance(order, tuple) else str(order)
        full = _published(order, total, where) if isinstance(order, str) else order
        places = arrange(full, total, 0, where)
        if sorted(places) != list(range(total)):
            raise BadSpec(where, name, f"all tasks, by position from 0 to {total - 1}")
        found.append((name, _within(places, view)))
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadSpec(where, twice, "orders that differ")
    return found


def _within(places: Sequence[int], view: View) -> tuple[int, ...]:
    return tuple(place for place in places if place in set(view.places))


def _published(order: str, total: int, where: str) -> str:
    """A published order's full name; a letter alone is enough where it is clear."""
    names = [
        f"{stream}/{letter}"
        for stream, own in ORDERS.items()
        for letter, places in own.items()
        if len(places) == total
    ]
    alike = [name for name in names if name.rpartition("/")[2] == order]
    if order == "natural" or order in names:
        return order
    if len(alike) == 1:
        return alike[0]
    raise BadSpec(where, order, ["natural", *(alike or names)])


def repeats_of(board: Board, view: View) -> tuple[Repeat, ...]:
    """The seeds and orders of each trial of a search; none of them comes again in a final run."""
    search = board.job.search
    more = [derive_seed(search.seed, "search", "seed", i) for i in range(1, search.seeds)]
    orders = arrangements(board, search.orders, view, "search")
    if view.whole and len({tasks for _, tasks in orders}) < len(orders):
        raise BadSpec("search.orders", len(orders), "orders that differ")
    # Orders of the whole stream may agree in the tasks that are learned here.
    learned = dict.fromkeys(tasks for _, tasks in orders)
    return tuple(Repeat(seed, tasks) for tasks in learned for seed in (search.seed, *more))
