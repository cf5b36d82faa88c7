from __future__ import annotations

import copy
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from clray import registry
from clray.distributed import Distributed
from clray.learner import Setup
from clray.models import donors as donors_module
from clray.models import transfer as transfer_module
from clray.models.bitmask import Largest, NotNegative, Selection
from clray.models.classifier import Classifier
from clray.models.donors import RandomMask, split_encoder, vote
from clray.models.supermask_learner import SupermaskLearner
from clray.models.task_statistics import STATISTICS
from clray.models.transfer import Transfer, TransferConfig, by_frequency, moved_to
from clray.spec import Component
from clray.task import Task
from tests.models.toy_subnetworks import (
    CLASSES,
    WIDTH,
    Toy,
    as_task,
    clusters,
    equal,
    network,
    planted,
    setup_for,
)

Planted = tuple[Toy, list[Tensor]]
Answer = tuple[dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def four() -> Planted:
    torch.set_num_threads(1)
    return planted(0)


def ask(
    toy: Toy, task: Task, *, seed: int = 5, released: bool = False, setup: Any = None, **knobs: Any
) -> Answer:
    """First scores for a task, and facts; every model stays as it was."""
    config = TransferConfig(**{"transfer": "knn-best", **knobs})
    transfer = Transfer(config, setup or setup_for(toy.model), released)
    fresh = toy.subnetworks.draw(77)
    return transfer.initial_scores(
        toy.subnetworks, toy.selections, list(toy.kept), task, fresh, seed
    )


def new_task(centres: Tensor, seed: int = 1000) -> Task:
    return as_task(*clusters(centres, 1200, seed))


def noise(seed: int = 3) -> Task:
    """Labels that say nothing of the examples."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1200, WIDTH, 1, 1, generator=generator)
    return as_task(x, torch.randint(CLASSES, (1200,), generator=generator))


# The choice.


@pytest.mark.parametrize("planted_in", range(4))
def test_the_planted_donor_is_found_and_warms_the_search(four: Planted, planted_in: int) -> None:
    toy, centres = four
    task = new_task(centres[planted_in], 1000 + planted_in)
    scores, facts = ask(toy, task)
    accuracies = facts["donor_accuracies"]
    assert facts["donor"] == planted_in
    assert facts["queries"] == 82  # of 240
    assert facts["neighbours"] == 10
    assert accuracies[planted_in] > 0.7
    assert all(accuracy < 0.4 for i, accuracy in enumerate(accuracies) if i != planted_in)
    x, y = clusters(centres[planted_in], 1000, 1000 + planted_in)
    warm, little = after_search(toy, x, y, scores)
    cold, much = after_search(toy, x, y, toy.subnetworks.draw(77))
    assert warm - cold >= 0.15
    assert little < 0.1
    assert much > 0.6


def after_search(toy: Toy, x: Tensor, y: Tensor, scores: dict[str, Tensor]) -> tuple[float, float]:
    """Accuracy after 15 steps, and the free share of the mask by then."""
    toy.search(x[:500], y[:500], 15, {name: value.clone() for name, value in scores.items()})
    with torch.no_grad():
        right = float((toy.model(x[500:]).argmax(1) == y[500:]).float().mean())
    layers = toy.subnetworks.layers.values()
    free = sum(int((layer.found() & ~layer.is_claimed()).sum()) for layer in layers)
    size = sum(int(layer.found().sum()) for layer in layers)
    for layer in layers:
        layer.rest()
    toy.model.eval()
    return right, free / size


def test_the_names_of_classes_do_not_matter_to_the_choice(four: Planted) -> None:
    toy, centres = four
    x, y = clusters(centres[2], 1200, 1000)
    others = torch.tensor([3, 0, 4, 2, 1])
    known, permuted = (ask(toy, as_task(x, labels))[1] for labels in (y, others[y]))
    assert known["donor"] == permuted["donor"] == 2
    far = as_task(x, y + 40)  # as a later task of a class-incremental stream has them
    assert ask(toy, replace(far, classes=tuple(range(40, 45))))[1] == known


def test_where_no_donor_helps_nothing_changes(four: Planted) -> None:
    toy, before = four[0], torch.get_rng_state()
    state, setup = toy.state(), setup_for(toy.model)
    mine = setup.generator.get_state()
    fresh = toy.subnetworks.draw(77)
    scores, facts = ask(toy, noise(), threshold="z", z=3, setup=setup)
    assert facts["donor"] is None
    assert max(facts["donor_accuracies"]) <= facts["threshold"]
    assert equal(scores, fresh)
    assert equal(toy.state(), state)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(mine, setup.generator.get_state())
    assert not equal(ask(toy, noise(), transfer="knn-always")[0], fresh)  # is able to change them


def test_a_donor_must_beat_the_random_mask_too(four: Planted) -> None:
    toy, centres = four
    helped = ask(toy, new_task(centres[1]), threshold="random", margin=0.05)[1]
    assert helped["donor"] == 1
    assert helped["threshold"] == helped["random_accuracy"] + 0.05
    # Clusters in numbers that no donor has looked at: a random mask has, some of them.
    elsewhere = new_task(torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0)))
    lax, strict = (ask(toy, elsewhere, threshold=bar)[1] for bar in ("chance", "random"))
    assert lax["donor"] is not None
    assert strict["donor"] is None
    assert strict["donor_accuracies"] == lax["donor_accuracies"]
    guessed = ask(toy, noise(), threshold="random")[1]  # where z alone says what is enough
    assert guessed["threshold"] == max(guessed["random_accuracy"], 0.2 + 2 * (0.16 / 82) ** 0.5)


def test_equal_donors_go_by_number_and_the_same_seed_decides_alike(four: Planted) -> None:
    toy, centres = four
    task, twice = new_task(centres[3]), copy.deepcopy(toy)
    for layer in twice.subnetworks.layers.values():
        layer.register_buffer("mask_1", layer.get_buffer("mask_3"))  # the same subnetwork
    accuracies = ask(twice, task)[1]["donor_accuracies"]
    assert accuracies[1] == accuracies[3] == max(accuracies)
    assert ask(twice, task)[1]["donor"] == 1
    assert ask(toy, task)[1] == ask(toy, task)[1]
    assert ask(toy, task)[1] != ask(toy, task, seed=6)[1]  # other examples


@dataclass
class Watched:
    """Examples that note which ones were read."""

    task: Task
    read: list[Tensor]

    def __len__(self) -> int:
        return len(self.task.train)

    def batches(self, *given: Any, **others: Any) -> Iterator[tuple[Tensor, Tensor]]:
        self.read.append(torch.empty(0))
        for x, y in self.task.train.batches(*given, **others):
            self.read[-1] = torch.cat([self.read[-1], x[:, 0, 0, 0]])
            yield x, y


@pytest.mark.parametrize("released", [False, True])
def test_donors_see_the_same_examples(
    four: Planted, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy, centres = four
    monkeypatch.setattr(transfer_module, "TOGETHER", 1)
    task = new_task(centres[0])
    watched = Watched(task, [])
    augmented = []

    def augment(x: Tensor) -> Tensor:
        augmented.append(len(x))
        return x

    setup = setup_for(toy.model, augment=augment)
    _, facts = ask(toy, replace(task, train=watched), released=released, setup=setup)
    assert augmented == ([240] * 4 if released else [])
    assert len(watched.read) == 4
    assert all(len(part) == 240 for part in watched.read)
    assert all(torch.equal(part, watched.read[0]) for part in watched.read[1:]) != released
    monkeypatch.undo()
    assert ask(toy, task, released=released)[1] == facts  # as all together


def test_too_many_neighbours_are_clamped_and_make_the_released_code_guess(four: Planted) -> None:
    toy, task = four[0], new_task(four[1][2])
    clamped = ask(toy, task, neighbours=10**6)[1]
    assert clamped["donor"] == 2
    assert clamped["neighbours"] == 158 // (2 * CLASSES)
    facts = ask(toy, task, neighbours=10**6, released=True, transfer="knn-always", subset=1.0)[1]
    assert facts["neighbours"] == 792
    assert max(facts["donor_accuracies"]) < 0.3  # the commonest label, by all


# The scores.


@pytest.mark.parametrize(
    ("knobs", "donors"),
    [
        ({}, [1]),
        ({"transfer_source": "mask"}, [1]),
        ({"transfer": "last"}, [3]),
        ({"transfer": "last", "transfer_source": "mask"}, [3]),
        ({"transfer": "knn-all"}, [1]),
        ({"transfer": "knn-all", "transfer_source": "mask", "threshold": "z"}, [1]),
        ({"transfer": "mean-scores"}, [0, 1, 2, 3]),
        ({"transfer": "mean-masks"}, [0, 1, 2, 3]),
    ],
)
def test_scores_begin_as_the_donors_do_and_leave_them_as_they_are(
    four: Planted, knobs: dict[str, Any], donors: list[int]
) -> None:
    toy, centres = four
    before = toy.state()
    scores, facts = ask(toy, new_task(centres[1]), **{"threshold": "z", "z": 4, **knobs})
    assert facts["donor"] == (donors[0] if len(donors) == 1 else None)
    assert facts.get("donors", donors) == donors
    for name, layer in toy.subnetworks.layers.items():
        mask = toy.selections[name](scores[name])
        if len(donors) == 1:
            assert torch.equal(mask, layer.mask_of(str(donors[0])))
        if facts.get("donors") and knobs["transfer"] == "mean-scores":
            kept = [layer.get_buffer(f"scores_{d}") for d in donors]
            torch.testing.assert_close(scores[name], torch.stack(kept).mean(0))
        if knobs.get("transfer") == "mean-masks":
            times = sum(layer.mask_of(str(d)).int() for d in donors)
            assert isinstance(times, Tensor)
            assert times[mask].min() >= times[~mask].max()
        scores[name].fill_(-1)  # as a search would
    assert equal(toy.state(), before)


def test_the_released_mean_overwrites_the_first_donor_and_no_answer(four: Planted) -> None:
    toy = copy.deepcopy(four[0])
    x = torch.randn(16, WIDTH, 1, 1)
    before, logits = toy.state(), [toy.logits(name, x) for name in toy.kept]
    knobs: dict[str, Any] = {"transfer": "knn-all", "threshold": "chance", "released": True}
    mixed = as_task(*clusters(sum(four[1]), 1200, 4))  # type: ignore[arg-type]
    scores, facts = ask(toy, mixed, **knobs)
    assert len(facts["donors"]) > 1
    changed = {name for name, value in toy.state().items() if not torch.equal(value, before[name])}
    first = facts["donors"][0]
    assert changed == {f"{layer}.scores_{first}" for layer in toy.subnetworks.layers}
    for name, layer in toy.subnetworks.layers.items():
        assert torch.equal(scores[name], layer.get_buffer(f"scores_{first}"))
        scores[name].fill_(0)  # is no part of it
        assert layer.get_buffer(f"scores_{first}").any()
    assert all(
        torch.equal(was, toy.logits(name, x)) for was, name in zip(logits, toy.kept, strict=True)
    )


def test_a_blend_lies_between_donor_and_random(four: Planted) -> None:
    toy, centres = four
    fresh, whole = toy.subnetworks.draw(77), ask(toy, new_task(centres[0]))[0]
    mixed = ask(toy, new_task(centres[0]), blend=0.25)[0]
    for name in fresh:
        torch.testing.assert_close(mixed[name], 0.25 * whole[name] + 0.75 * fresh[name])


def test_masks_alone_need_no_scores() -> None:
    config, setup = TransferConfig(), setup_for(nn.Identity())
    needs = {
        (mode, source)
        for mode in ("none", "knn-best", "knn-all", "mean-scores", "mean-masks", "last")
        for source in ("scores", "mask")
        if Transfer(
            config.model_copy(update={"transfer": mode, "transfer_source": source}), setup
        ).needs_scores
    }
    modes = ("knn-best", "knn-all", "mean-scores", "last")
    assert needs == {(mode, "scores") for mode in modes} | {("mean-scores", "mask")}


@pytest.mark.parametrize("ties", [False, True])
def test_scores_moved_to_a_mask_select_it(ties: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for n in (1, 7, 1000):
        fresh = 2 * torch.rand(n, generator=generator) - 1
        if ties:
            fresh = fresh.sign() * (3 * fresh.abs()).floor()  # many zeros, ones and twos
        for number in {1, n // 2 or 1, n}:
            mask = torch.zeros(n, dtype=torch.bool)
            mask[torch.randperm(n, generator=generator)[:number]] = True
            moved = moved_to(mask, fresh, Largest(number))
            assert torch.equal(Largest(number)(moved), mask)
            sizes = [values.abs().sort().values for values in (moved, fresh)]
            torch.testing.assert_close(*sizes, rtol=0, atol=1e-6)  # their sizes, and their signs
            assert torch.equal(moved < 0, (fresh < 0) & (moved != 0))
        signs = moved_to(mask, fresh, NotNegative())
        assert torch.equal(NotNegative()(signs), mask)


def test_frequencies_order_the_scores_and_random_ones_break_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    times, fresh = torch.randint(4, (1000,), generator=generator), torch.rand(1000) - 0.5
    for number in (1, 100, 999):
        chosen = Largest(number)(by_frequency(times, 3, fresh, Largest(number)))
        order = sorted(range(1000), key=lambda i: (-int(times[i]), -abs(float(fresh[i]))))
        assert set(chosen.nonzero().flatten().tolist()) == set(order[:number])
    signs: Selection = NotNegative()
    even = by_frequency(times.clamp_max(2), 2, fresh, signs)
    assert torch.equal(signs(even), (times >= 2) | ((times == 1) & (fresh >= 0)))


# Neighbours and features.


class Widest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, tuple | list) else [made]:
            if isinstance(one, Tensor):
                self.size = max(self.size, one.numel())
        return made


@pytest.mark.parametrize("neighbours", [1, 4, 10])
def test_neighbours_are_those_of_brute_force_in_little_memory(
    neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(neighbours)
    memory = 100 + torch.randn(500, 24, generator=generator)
    queries = 100 + torch.randn(700, 24, generator=generator)
    labels = torch.randint(4, (500,), generator=generator)
    distances = (queries[:, None].double() - memory[None].double()).square().sum(2)
    nearest = distances.argsort(1)[:, :neighbours]
    counts = nn.functional.one_hot(labels[nearest], 4).sum(1)
    expected = [row.index(max(row)) for row in counts.tolist()]
    monkeypatch.setattr(donors_module, "DISTANCES", 20_000)
    with Widest() as widest:
        assert vote(memory, labels, queries, neighbours).tolist() == expected
    assert widest.size <= 20_000  # 8,400,000 at once otherwise


def test_features_stop_before_the_last_relu_and_share_what_is_frozen() -> None:
    calls = []
    frozen = nn.Linear(WIDTH, 32).requires_grad_(False)
    frozen.register_forward_hook(lambda *_: calls.append(1))
    encoder = nn.Sequential(nn.Flatten(), frozen, nn.Linear(32, 16), nn.ReLU(), nn.Dropout(0.1))
    torch.manual_seed(0)
    toy = Toy(Classifier(encoder, nn.Linear(16, CLASSES)), 0.3)
    x, y = torch.randn(100, WIDTH, 1, 1), torch.arange(100) % CLASSES
    for _ in range(3):
        toy.learn(x, y, 1, 0)
    same, own = split_encoder(toy.model, toy.subnetworks)
    toy.subnetworks.show("1")
    found = own(same(x))
    assert (found < 0).any()
    assert torch.equal(found.relu(), toy.model.encoder(x))
    toy.subnetworks.learn()
    calls.clear()
    ask(toy, as_task(x, y), threshold="random")
    assert len(calls) == 1  # one batch, three donors and the random mask


# Old answers.


class InPlace(Toy):
    """As in the released code, what a shown task's normalisations see becomes part of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        subnetworks = self.subnetworks
        own = {path: dict(norm.named_buffers()) for path, norm in subnetworks.norms.items()}

        def take(name: str = "") -> None:
            for path, norm in subnetworks.norms.items():
                for statistic in STATISTICS[:2]:
                    mine = own[path][statistic]
                    there = norm.get_buffer(f"{statistic}_{name}") if name else mine
                    norm.register_buffer(statistic, there)

        def show(name: str) -> None:
            take()
            type(subnetworks).show(subnetworks, name)
            take(name)

        def learn() -> None:
            take()
            type(subnetworks).learn(subnetworks)

        subnetworks.show, subnetworks.learn = show, learn  # type: ignore[method-assign]


def with_norm(kind: type[Toy]) -> tuple[Toy, Task]:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )  # fmt: skip
    toy = kind(Classifier(encoder, nn.Linear(24, CLASSES)), 0.3)
    for number in range(3):
        x = torch.randn(64, 1, 8, 8) * (number + 1) + number
        toy.learn(x, torch.arange(64) % CLASSES, 5, 5)
    return toy, as_task(torch.randn(100, 1, 8, 8), torch.arange(100) % CLASSES)


@pytest.mark.parametrize(
    ("kind", "threshold"), [(Toy, "chance"), (Toy, "random"), (InPlace, "chance")]
)
def test_comparing_donors_in_evaluation_mode_leaves_old_answers(
    kind: type[Toy], threshold: str
) -> None:
    toy, task = with_norm(kind)
    x = torch.randn(20, 1, 8, 8)
    logits = [toy.logits(name, x) for name in toy.kept]
    for norm in toy.subnetworks.norms.values():
        norm.reset_running_stats()  # as a new task begins
    before = toy.state()
    ask(toy, task, threshold=threshold)
    assert equal(before, toy.state())  # what is being learned, too
    assert all(layer.put_together is None for layer in toy.subnetworks.layers.values())
    assert all(map(torch.equal, logits, [toy.logits(name, x) for name in toy.kept]))


def test_comparing_donors_in_training_mode_does_not() -> None:
    toy, task = with_norm(InPlace)
    x = torch.randn(20, 1, 8, 8)
    logits = [toy.logits(name, x) for name in toy.kept]
    toy.model.train()
    ask(toy, task)
    assert not any(map(torch.equal, logits, [toy.logits(name, x) for name in toy.kept]))


def test_a_random_mask_answers_without_what_tasks_have_seen() -> None:
    toy, task = with_norm(Toy)
    masks = {name: torch.rand_like(w) < 0.5 for name, w in toy.model.named_parameters()}
    layers = toy.subnetworks.layers
    masks = {name: masks[f"{name}.weight"] for name in layers}
    x = next(task.train.batches(10))[0]
    with torch.no_grad(), RandomMask(toy.subnetworks, "1", masks):
        found = toy.model.encoder(x)
    weight = layers["encoder.0"].weight * masks["encoder.0"]
    expected = (nn.functional.conv2d(x, weight) / (1 + 1e-5) ** 0.5).relu()
    torch.testing.assert_close(found, nn.functional.adaptive_avg_pool2d(expected, 2).flatten(1))


# As a method has it.


def learned(transfer: str, **knobs: Any) -> tuple[SupermaskLearner, list[dict[str, Any]]]:
    """Exclusive supermasks after four tasks in two blocks of numbers, and what is said of each;
    old answers are the same at every end."""
    torch.manual_seed(0)
    setup = setup_for(network((32,)), scenario="task-incremental", epochs=2)
    component = Component(name="exssnet", density=0.2, transfer=transfer, **knobs)
    config = registry.configure("method", component)
    learner = registry.find("method", "exssnet").learner(config, setup)
    assert isinstance(learner, SupermaskLearner)
    generator, said, answers = torch.Generator().manual_seed(1), [], list[Tensor]()
    seen = torch.randn(16, WIDTH, 1, 1)
    for index in range(4):
        centres = torch.zeros(20, WIDTH)
        block = 32 * (index % 2)
        centres[:, block : block + 32] = 2 * torch.randn(20, 32, generator=generator)
        task = replace(as_task(*clusters(centres, 400, index)), index=index, name=str(index))
        learner.begin_task(task)
        for epoch in range(2):
            for x, y in task.train.batches(64, 0, epoch):
                learner.observe(x, y, task)
        said.append(learner.end_task(task))
        learner.train_mode(False)
        with torch.no_grad():
            now = [learner.predict(seen, replace(task, index=i)) for i in range(index + 1)]
        learner.train_mode(True)
        assert all(map(torch.equal, answers, now))
        answers = now
    return learner, said


def without_scores(learner: SupermaskLearner) -> dict[str, Tensor]:
    state = learner.model.state_dict()
    return {name: value for name, value in state.items() if ".scores_" not in name}


def test_a_method_goes_without_transfer_as_where_no_donor_is_good_enough() -> None:
    alone, _ = learned("none")
    never, said = learned("knn-best", threshold="z", z=1e6)
    assert equal(alone.model.state_dict(), without_scores(never))
    assert [len(facts.get("donor_accuracies", [])) for facts in said] == [0, 1, 2, 3]
    assert all(facts.get("donor") is None for facts in said)
    some, said = learned("knn-always")
    assert not equal(alone.model.state_dict(), without_scores(some))
    assert all(isinstance(facts["donor"], int) for facts in said[1:])
    json.dumps(said)


# Workers.


class Pair(Distributed):
    """One of two workers that are threads of this process."""

    def __init__(self, rank: int, box: list[Tensor], barrier: threading.Barrier) -> None:
        self._rank, self._box, self._barrier = rank, box, barrier

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def world(self) -> int:
        return 2

    def _exchange(self, value: Tensor) -> list[Tensor]:
        self._box[self._rank] = value
        self._barrier.wait(20)
        both = list(self._box)
        self._barrier.wait(20)
        return both

    def sum(self, value: Tensor) -> Tensor:
        return torch.stack(self._exchange(value)).sum(0)

    def gather(self, x: Tensor) -> Tensor:
        return torch.cat(self._exchange(x))


def test_two_workers_decide_as_one(four: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    toy, centres = four
    monkeypatch.setattr(donors_module, "BATCH", 37)  # several batches, of uneven shares
    task = new_task(centres[3])
    scores, facts = ask(toy, task)
    box, barrier = [torch.empty(0)] * 2, threading.Barrier(2)
    found: dict[int, Answer] = {}

    def work(rank: int) -> None:
        own = copy.deepcopy(toy)
        setup: Setup = setup_for(own.model, distributed=Pair(rank, box, barrier))
        found[rank] = ask(own, task, setup=setup)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0][1] == found[1][1] == facts
    assert equal(found[0][0], scores)
    assert equal(found[1][0], scores)
