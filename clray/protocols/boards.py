"""A job's boards, planned: one benchmark under one selection protocol, every knob filled in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clray import registry
from clray.errors import BadInput, BadSpec, UnknownName
from clray.files import load_space, space_names
from clray.job import Arena, Entry, JobProtocol, JobSpec
from clray.parsing import merge, parse
from clray.protocols.spaces import check_points, check_space
from clray.selection import AnySelection
from clray.space import Point, SearchSpace, by_path
from clray.spec import Component, Optimizer, TrialSpec
from clray.streams.benchmark import BenchmarkConfig


@dataclass(frozen=True)
class Contender:
    """One entry of a job on one benchmark.

    Attributes:
        label: the job's name for it.
        base: the complete spec that proposals are put over.
        space: what is searched.
        trials: of its search; one where nothing is searched.
        bound: whether it is a bound to compare with.
    """

    label: str
    base: TrialSpec
    space: SearchSpace
    trials: int
    bound: bool


@dataclass(frozen=True)
class Board:
    """One benchmark under one selection protocol.

    Attributes:
        name: "" for a single one, else the benchmark's label and the protocol's title.
        arena: the benchmark's label; "" for a single one.
        job: with this benchmark and this protocol alone.
        selection: the protocol.
        benchmark: configured.
        num_tasks: length of the benchmark's stream.
        contenders: in the order of the job.
    """

    name: str
    arena: str
    job: JobSpec
    selection: AnySelection
    benchmark: BenchmarkConfig
    num_tasks: int
    contenders: tuple[Contender, ...]

    @property
    def where(self) -> str:
        """Names its selection protocol in an error, and the benchmark if there are several."""
        named = f"selection {self.selection.title}"
        return f"benchmarks.{self.arena}: {named}" if self.arena else named

    def refuse(self, field: str, given: object, accepted: str | Iterable[str]) -> BadSpec:
        """An error about this board's selection protocol."""
        return BadSpec(f"{self.where}: {field}", given, accepted)


def fill_in(job: JobSpec) -> JobSpec:
    """``job`` with its spaces written out and every knob filled in.

    Raises:
        BadInput: something that its component refuses.
    """
    entries: dict[str, Entry] = {}
    for label, entry in job.methods.items():
        with _named(job, label):
            entries[label] = _entry(job, label, entry)
    filled = job.model_copy(update={"methods": entries})
    arenas = _arenas(filled)
    bases = {name: _bases(alone) for name, alone in arenas.items()}
    methods = {}
    for label, entry in entries.items():
        base = next(own[label] for own in bases.values() if label in own)
        own_model = base.model if entry.model is not None else None
        methods[label] = entry.model_copy(update={"method": base.method, "model": own_model})
    update: dict[str, Any] = {"methods": methods}
    if job.benchmark is not None:
        base = next(iter(bases[""].values()))
        update |= {"benchmark": base.benchmark, "model": _model(job)}
    else:
        update["benchmarks"] = {
            name: arena.model_copy(
                update={
                    "benchmark": next(iter(bases[name].values())).benchmark,
                    "model": _model(arenas[name]),
                }
            )
            for name, arena in job.benchmarks.items()
        }
    return filled.model_copy(update=update)


def _model(job: JobSpec) -> Component:
    """The job's network with every knob filled in; without what an entry's space holds fixed."""
    config = registry.configure("model", job.model)
    return Component(name=job.model.name, **config.model_dump(mode="json"))


def boards_of(job: JobSpec) -> list[Board]:
    """The boards of a job that ``fill_in`` has filled in: by benchmark, then by protocol."""
    boards = []
    for arena, alone in _arenas(job).items():
        bases = _bases(alone)
        first = next(iter(bases.values()))
        benchmark: BenchmarkConfig = registry.configure("benchmark", first.benchmark)
        num_tasks = benchmark.check()
        benchmark.check_resources(job.resources)
        for label, base in bases.items():
            with _named(alone, label):
                check_space(_space(alone, label), base, job.search.sampler)
        contenders = tuple(
            Contender(
                label, base, _space(alone, label), alone.methods[label].trials or 1, entry.bound
            )
            for (label, base), entry in zip(bases.items(), alone.methods.values(), strict=True)
        )
        for selection in job.protocol.selection:
            protocol = alone.protocol.model_copy(update={"selection": (selection,)})
            several = len(job.protocol.selection) > 1
            name = "/".join(part for part in (arena, selection.title if several else "") if part)
            own = alone.model_copy(update={"protocol": protocol})
            board = Board(name, arena, own, selection, benchmark, num_tasks, contenders)
            boards.append(board)
    return boards


def _arenas(job: JobSpec) -> dict[str, JobSpec]:
    """The job on each of its benchmarks alone, by label."""
    if job.benchmark is not None:
        return {"": job}
    return {name: _on(job, name, arena) for name, arena in job.benchmarks.items()}


def _on(job: JobSpec, name: str, arena: Arena) -> JobSpec:
    where = f"job {job.name}: benchmarks.{name}"
    if "selection" in arena.protocol:
        accepted = "fields of the protocol but this one: selection protocols are the whole job's"
        raise BadSpec(f"{where}: protocol", "selection", accepted)
    protocol = merge(job.protocol.model_dump(mode="json"), arena.protocol)
    optimizer = merge(job.optimizer.model_dump(mode="json"), arena.optimizer)
    return job.model_copy(
        update={
            "benchmark": arena.benchmark,
            "benchmarks": {},
            "methods": {
                label: entry.model_copy(update={"benchmarks": None})
                for label, entry in job.methods.items()
                if entry.takes_part_in(name)
            },
            "model": arena.model or job.model,
            "protocol": parse(JobProtocol, protocol, f"{where}: protocol"),
            "optimizer": parse(Optimizer, optimizer, f"{where}: optimizer"),
        }
    )


def _entry(job: JobSpec, label: str, entry: Entry) -> Entry:
    """The entry with its space written out, the method's published values to be tried first."""
    name = entry.method.name if entry.method else label.partition(".")[0]
    registry.find("method", name)
    given = entry.space
    space = given if isinstance(given, SearchSpace) else _named_space(label, name, given)
    published: tuple[Point, ...] = ()
    if name in space_names():
        points = (_inside(space, point) for point in load_space(name).start)
        published = tuple(point for point in points if point)
    start: list[Point] = []
    check_points(space, space.start, "start")
    check_points(space, entry.enqueue, "enqueue")
    for point in (*(published if not space.start else ()), *space.start, *entry.enqueue):
        if point not in start:
            start.append(point)
    space = space.model_copy(update={"start": tuple(start)})
    trials = (entry.trials or job.search.trials) if space.searched else 1
    return entry.model_copy(update={"space": space, "trials": trials, "enqueue": ()})


def _named_space(label: str, method: str, given: str | None) -> SearchSpace:
    """The space of that name, or the one that is named like the entry, or like its method."""
    if given is not None:
        return load_space(given)
    names = space_names()
    for name in (label, method):
        if name in names:
            return load_space(name)
    raise UnknownName("search space", label, names)


def _inside(space: SearchSpace, point: Point) -> Point:
    """The values of a point that a space may propose."""
    paths = {
        path
        for path, value in by_path(point).items()
        if path in space.searched and space.is_inside(path, value)
    }
    kept = {
        section: {knob: v for knob, v in knobs.items() if f"{section}.{knob}" in paths}
        for section, knobs in point.items()
    }
    return {section: knobs for section, knobs in kept.items() if knobs}


def _space(job: JobSpec, label: str) -> SearchSpace:
    space = job.methods[label].space
    if not isinstance(space, SearchSpace):
        raise TypeError("the job is not filled in")
    return space


def _bases(job: JobSpec) -> dict[str, TrialSpec]:
    """The spec of each entry, for a job with one benchmark."""
    bases = {}
    for label, entry in job.methods.items():
        with _named(job, label):
            bases[label] = _base(job, label, entry)
    return bases


def _base(job: JobSpec, label: str, entry: Entry) -> TrialSpec:
    assert job.benchmark is not None
    method = entry.method.model_dump() if entry.method else {"name": label.partition(".")[0]}
    plain = {
        "method": method,
        "benchmark": job.benchmark.model_dump(),
        "model": (entry.model or job.model).model_dump(),
        "protocol": job.protocol.training.model_dump(),
        "optimizer": merge(job.optimizer.model_dump(), entry.optimizer),
        "seed": job.search.seed,
    }
    for path, value in _space(job, label).fixed.items():
        section, _, knob = path.partition(".")
        plain = merge(plain, {section: {knob: value}})
    return registry.complete(parse(TrialSpec, plain, label))


@contextlib.contextmanager
def _named(job: JobSpec, label: str) -> Iterator[None]:
    """Puts the job's and the entry's name before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        error.args = (f"job {job.name}: methods.{label}: {error}",)
        raise
