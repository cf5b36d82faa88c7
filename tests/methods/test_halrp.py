"""HALRP: nothing is forgotten, order does not matter, and the growth is what was asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clray import registry
from clray.distributed import Distributed
from clray.errors import BadSpec, Infeasible
from clray.learner import Setup
from clray.methods.halrp import HALRP, Config
from clray.models.classifier import Classifier
from clray.models.low_rank_form import Form
from clray.spec import Component, derive_seed
from clray.streams.examples import TensorExamples
from clray.task import Task

CLASSES, TASKS = 3, 3
SHAPE = (2, 8, 8)


def unchanged(x: Tensor) -> Tensor:
    return x


def adam(parameters: Iterable[nn.Parameter], lr: float = 5e-3) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr)


def make_task(name: str, place: int, train: int = 96, test: int = 60, spread: float = 0.3) -> Task:
    """Three clusters of its own, in units of its own."""
    generator = torch.Generator().manual_seed(derive_seed(0, "toy", name))
    units = tuple(range(CLASSES * (ord(name) - ord("a")), CLASSES * (ord(name) - ord("a") + 1)))
    centres = spread * torch.randn(CLASSES, *SHAPE, generator=generator)
    halves = []
    for n in (train, test):
        label = torch.randint(CLASSES, (n,), generator=generator)
        x = centres[label] + torch.randn(n, *SHAPE, generator=generator)
        halves.append(TensorExamples(x, label + units[0], torch.arange(n)))
    return Task(place, name, units, *halves)


def stream(names: str = "abc") -> list[Task]:
    return [make_task(name, place) for place, name in enumerate(names)]


def network(dropout: float = 0.0) -> Classifier:
    """A convolution over 3x3 windows and two linear layers, normalised."""
    layers = [
        *(nn.Conv2d(2, 6, 3, 2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(96, 24), nn.Dropout(dropout), nn.BatchNorm1d(24, track_running_stats=False)),
        *(nn.ReLU(), nn.Linear(24, 16), nn.ReLU()),
    ]
    return Classifier(nn.Sequential(*layers), nn.Linear(16, CLASSES * 4))


def learner_of(
    *, seed: int = 0, epochs: int = 2, model: Classifier | None = None, **knobs: Any
) -> HALRP:
    torch.manual_seed(seed)
    setup = Setup(
        model=network() if model is None else model,
        optimizer=adam,
        clip_norm=None,
        scenario="task-incremental",
        num_classes=CLASSES * 4,
        num_tasks=4,
        num_examples=150,
        largest_task=CLASSES,
        image_shape=SHAPE,
        epochs=epochs,
        batch_size=16,
        memory=0,
        prepare=unchanged,
        augment=unchanged,
        generator=torch.Generator().manual_seed(seed),
        distributed=Distributed(),
        device=torch.device("cpu"),
    )
    config = registry.configure("method", Component.model_validate({"name": "halrp", **knobs}))
    assert isinstance(config, Config)
    learner = HALRP(config, setup)
    for unit in range(CLASSES * 4):
        learner.rivals[unit] = torch.arange(CLASSES * 4) // CLASSES == unit // CLASSES
    learner.all_rivals = False
    return learner


def steps_of(learner: HALRP, task: Task) -> Iterator[None]:
    """The steps of a task as the frame would go about it, up to its end."""
    if learner.first is not None:  # as the frame does where tasks are independent
        torch.manual_seed(derive_seed(0, "task", task.name))
        learner.setup.generator.manual_seed(derive_seed(1, "task", task.name))
    learner.train_mode(True)
    learner.begin_task(task.for_learning())
    for epoch in range(learner.setup.epochs):
        learner.begin_epoch(task, epoch, learner.setup.epochs)
        for x, y in task.train.batches(learner.setup.batch_size, seed=7, epoch=epoch):
            yield
            learner.observe(x, y, task)


def learn(learner: HALRP, task: Task) -> dict[str, Any]:
    for _ in steps_of(learner, task):
        pass
    facts = learner.end_task(task)
    learner.train_mode(False)
    return facts


def learned(tasks: Sequence[Task], **knobs: Any) -> HALRP:
    learner = learner_of(**knobs)
    for task in tasks:
        learn(learner, task)
    return learner


def answers(learner: HALRP, task: Task) -> Tensor:
    learner.train_mode(False)
    [(x, _)] = task.eval.batches(10**6)
    return learner.predict(x, task.for_predicting())


def accuracy(learner: HALRP, task: Task) -> float:
    [(_, y)] = task.eval.batches(10**6)
    return float((answers(learner, task).argmax(1) == y).double().mean())


def base_of(learner: HALRP) -> dict[str, Tensor]:
    """All that belongs to no later task, copied."""
    state = learner.model.state_dict()
    return {name: v.clone() for name, v in state.items() if not name.startswith("learned.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


# Nothing is forgotten.


@pytest.mark.parametrize("knobs", [{}, {"growth": 1.0}, {"convolutions": "reshape"}])
def test_old_answers_never_change(knobs: dict[str, Any]) -> None:
    tasks = stream("abcd")
    learner = learner_of(**knobs)
    base: dict[str, Tensor] = {}
    kept: list[Tensor] = []
    for place, task in enumerate(tasks):
        unlearned = answers(learner, tasks[-1])
        learn(learner, task)
        base = base or base_of(learner)
        assert same(base_of(learner), base)
        for old, before in zip(tasks, kept, strict=False):
            assert torch.equal(answers(learner, old), before)
        if 0 < place < 3:  # nor those on a task that is not learned yet
            assert torch.equal(answers(learner, tasks[-1]), unlearned)
        kept.append(answers(learner, task))


def test_released_pruning_changes_old_answers_once_the_growth_is_spent() -> None:
    tasks = stream("abc")
    free = learned(tasks)
    grown = [free.network.taken(name).counted / free.base for name in "bc"]
    learner = learner_of(prune="all", growth=1.1 * grown[0])
    learn(learner, tasks[0])
    facts = learn(learner, tasks[1])
    assert facts["growth_so_far"] == pytest.approx(grown[0])
    before = answers(learner, tasks[1])
    assert torch.equal(before, answers(free, tasks[1]))
    facts = learn(learner, tasks[2])
    assert facts["growth_so_far"] > 1.1 * grown[0]
    assert not torch.equal(answers(learner, tasks[1]), before)
    assert not HALRP.independent_after_first(learner.config)
    assert HALRP.independent_after_first(free.config)


# Growth.


def test_a_growth_is_kept_to_exactly_or_refused() -> None:
    tasks = stream("abcd")
    whole = learned(tasks, rank_cap=None, retained=1, l1=0)
    least = whole.network.sizes.least(CLASSES)
    for growth in (0.05, 0.1, 0.2, 0.6, 1.0):
        each = int(growth * whole.base / 3)
        knobs: dict[str, Any] = {"growth": growth, "rank_cap": None, "retained": 1, "l1": 0}
        if each < least:
            said = rf"method.growth: got {growth}.*takes {least} before"
            with pytest.raises(Infeasible, match=said):
                learner_of(**knobs)
            continue
        for after in (1.0, 0.5):
            learner = learned(tasks[:1], prune_after=after, **knobs)
            for task in tasks[1:]:
                for _ in steps_of(learner, task):
                    pass
                masks = learner.masks
                assert sum(int(m.sum()) for m in masks) == each - least or after == 1
                learner.end_task(task)
            total = sum(learner.network.taken(name).numbers for name in "bcd")
            assert 0.9 * growth < total / learner.base <= growth
            if after == 1:  # pruned as it was learned
                for name in "bcd":
                    own, full = (torch.cat(entries(one, name)) for one in (learner, whole))
                    assert torch.isin(own[own != 0], full).all()


def entries(learner: HALRP, name: str) -> list[Tensor]:
    """All of U and V of each layer."""
    form = learner.network.form_of(learner.network.kept(name))
    return [factor.flatten() for factor in form.factors()]


def test_the_footprint_is_what_is_stored() -> None:
    tasks = stream("abc")
    learner = learner_of(growth=0.8)
    learn(learner, tasks[0])
    first = learner.footprint()
    assert first["parameters"] == learner.base == learner.network.sizes.first(CLASSES)
    for task in tasks[1:]:
        learn(learner, task)
    answers(learner, tasks[1])  # puts weights together, which are not kept
    stored = learner.model.state_dict().values()
    footprint = learner.footprint()
    assert footprint["bytes"] == sum(v.numel() * v.element_size() for v in stored)
    own = [learner.network.taken(name) for name in "bc"]
    assert footprint["parameters"] == learner.base + sum(one.numbers for one in own)
    state = learner.network.__getstate__()
    assert state["_shown"] is None


# One task's way.


def test_phases_begin_afresh() -> None:
    tasks = stream("ab")
    learner = learner_of(warm_up=0.3, lr_decay=0.5, epochs=3)
    learn(learner, tasks[0])
    base = base_of(learner)
    seen: list[tuple[str, float, int]] = []
    for step, _ in enumerate(steps_of(learner, tasks[1])):
        state, form = learner.optimizer.state, learner.network.working
        assert form is not None
        rate = learner.optimizer.param_groups[0]["lr"]
        seen.append((learner.phase, rate, len(state)))
        if step == 0:  # a copy of the base, with a head of its own
            copied = {
                f"{path}.{n}": v for path, norm in form.norms.items() for n, v in norm.items()
            }
            for path, one in form.layers.items():
                copied |= {f"{path}.{n}": v for n, v in vars(one).items()}
            assert same(copied, base)
            assert not torch.equal(form.head.weight, learner.network.kept("a")["head.weight"])
            own = {id(value) for value in copied.values()}
            assert not own & {id(value) for value in learner.model.parameters()}
        held = [p for group in learner.optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == {id(p) for p in form.parameters()}
    warm_up, per_epoch = 5, 6  # 0.3 of 18 steps
    assert [phase for phase, _, _ in seen] == ["warm-up"] * warm_up + ["factored"] * (18 - warm_up)
    assert [n == 0 for _, _, n in seen] == [step in (0, warm_up) for step in range(18)]
    decayed = [0.5 ** (step / per_epoch) * 5e-3 for step in range(18)]
    assert [rate for _, rate, _ in seen] == pytest.approx(
        decayed[:warm_up] + decayed[: 18 - warm_up]
    )
    least = learner.network.sizes.least(CLASSES)
    form = learner.network.working
    assert form is not None
    assert sum(p.numel() for p in held) == least + sum(f.numel() for f in form.factors())
    assert all(p.grad is None for p in learner.model.parameters())


def test_the_rate_falls_as_released() -> None:
    learner = learner_of(decay_examples=4000)
    learner.setup = copy.copy(learner.setup)
    object.__setattr__(learner.setup, "batch_size", 128)
    task = make_task("a", 0, train=128 * 33)
    rates = []
    for _ in steps_of(learner, task):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        if len(rates) == 33:
            break
    assert rates[1] / rates[0] == pytest.approx(0.95**0.032)
    assert rates[32] / rates[0] == pytest.approx(0.9488, abs=5e-5)


def test_a_task_of_one_step_warms_up_and_is_factored() -> None:
    learner = learner_of(epochs=1)
    learn(learner, make_task("a", 0))
    facts = learn(learner, make_task("b", 1, train=16))
    assert facts["directions"] > 0
    assert learner.network.has("b")


def test_ranks_within_parameters_and_examples_set_aside() -> None:
    tasks = stream("ab")
    learner = learned(tasks[:1], ranks="parameters", rank_parameters=200)
    facts = learn(learner, tasks[1])
    costs = {"encoder.0": 8, "encoder.4": 120, "encoder.7": 40}
    spent = sum(costs.get(path, 40) * rank for path, rank in facts["ranks"].items())
    assert spent <= 200
    aside = learned(tasks[:1], importance_from="aside", held_out=0.3)
    for _ in steps_of(aside, tasks[1]):
        pass
    assert aside.aside is not None
    held = [aside.aside.holds(x, y) for x, y in tasks[1].train.batches(16)]
    assert 20 < int(torch.cat(held).sum()) < 38
    batches = [y for _, y in aside._importance_batches(tasks[1])]
    assert sum(map(len, batches)) == int(torch.cat(held).sum())


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"ranks": "parameters"}, "rank_parameters: got None"),
        ({"rank_parameters": 9}, "rank_parameters: got 9"),
        ({"ranks": "parameters", "rank_parameters": 9}, "rank_parameters: got 9.*168 or more"),
        ({"prune_after": 0.5, "growth": 1, "prune": "all"}, "prune_after: got 0.5"),
        ({"scale_fit": "released", "scale_rounds": 2}, "scale_rounds: got 2"),
    ],
)
def test_knobs_that_do_not_fit_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSpec, match=message):
        learner_of(**knobs)


# Order, and other learners.


def test_the_order_after_the_first_task_does_not_matter() -> None:
    orders = {
        names: learned(stream(names), model=seeded(partial(network, dropout=0.2)), growth=0.8)
        for names in ("abcd", "adbc", "bacd")
    }
    one, other, third = orders.values()
    for task in stream("abcd"):
        assert torch.equal(answers(one, task), answers(other, task))
        assert not torch.equal(answers(one, task), answers(third, task))
    assert one.footprint() == other.footprint()


def seeded(build: Callable[[], Classifier]) -> Classifier:
    torch.manual_seed(0)
    return build()


def test_what_was_learned_elsewhere_is_adopted(tmp_path: Path) -> None:
    tasks = stream("abc")
    one = learned(tasks, growth=0.8)
    other = learned(tasks[:1], growth=0.8)
    unlearned = answers(other, tasks[1])
    for task in tasks[:0:-1]:
        torch.save(one.learned_of(task), tmp_path / task.name)
        other.adopt(task, torch.load(tmp_path / task.name))
    for task in tasks:
        assert torch.equal(answers(other, task), answers(one, task))
    assert not torch.equal(answers(other, tasks[1]), unlearned)
    assert other.footprint() == one.footprint()
    learn(other, make_task("d", 3))
    learn(one, make_task("d", 3))
    assert torch.equal(answers(other, make_task("d", 3)), answers(one, make_task("d", 3)))


def test_a_task_is_loaded_alone(tmp_path: Path) -> None:
    tasks = stream("abc")
    learner = learned(tasks, growth=0.8)
    torch.save(learner, tmp_path / "learner")
    again = torch.load(tmp_path / "learner", weights_only=False)
    for task in tasks:
        assert torch.equal(answers(again, task), answers(learner, task))
    state = learner.model.state_dict()
    own = "learned.task c."
    fresh = learner_of(seed=5)
    base = {n: v for n, v in state.items() if not n.startswith("learned.")}
    fresh.model.load_state_dict(base)
    tensors = {n.removeprefix(own): v for n, v in state.items() if n.startswith(own)}
    fresh.network.adopt("c", {n.replace("/", "."): v for n, v in tensors.items()})
    assert torch.equal(answers(fresh, tasks[2]), answers(learner, tasks[2]))


def test_the_same_seed_gives_the_same_network() -> None:
    states = [learned(stream("ab"), seed=seed).model.state_dict() for seed in (3, 3, 4)]
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


def test_names_that_no_module_could_have() -> None:
    tasks = [make_task("a", 0), make_task("b", 1)]
    for name in ("a.b/c", "train", "", "é %2E", "task"):
        learner = learner_of(epochs=1)
        for task in tasks:
            learn(learner, Task(task.index, name + task.name, task.classes, task.train, task.eval))
        keys = learner.model.state_dict().keys()
        assert len({key.split(".")[1] for key in keys if key.startswith("learned.")}) == 2


# Learning.


def test_ranks_by_importance_learn_as_well_as_a_free_copy() -> None:
    tasks = [make_task(name, i, 192, 300, spread=0.35) for i, name in enumerate("abc")]

    def mean(**knobs: Any) -> float:
        learner = learned(tasks, epochs=4, model=seeded(mlp), **knobs)
        return sum(accuracy(learner, task) for task in tasks[1:]) / 2

    halrp, rank_one = mean(retained=0.9), mean(ranks="flat", rank_cap=1)
    free = learned(tasks[:1], epochs=4, model=seeded(mlp))
    copies = []
    for task in tasks[1:]:
        for step, _ in enumerate(steps_of(free, task)):
            if step == 0:
                free.num_steps["warm-up"] = 10**6
        copies.append(accuracy_of(free, free.network.working, task))
    assert halrp > 0.9
    assert halrp >= rank_one
    assert halrp >= sum(copies) / 2 - 0.02


def mlp() -> Classifier:
    layers = [nn.Flatten(), nn.Linear(128, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), nn.Linear(32, CLASSES * 4))


@torch.no_grad()
def accuracy_of(learner: HALRP, form: Form | None, task: Task) -> float:
    assert form is not None
    [(x, y)] = task.eval.batches(10**6)
    learner.train_mode(False)
    with learner.network.using(form):
        return float((learner.forward(x).argmax(1) + task.classes[0] == y).double().mean())
