"""What every benchmark promises, whatever file it stands in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clray import registry
from clray.errors import BadData
from clray.spec import Component
from clray.streams.benchmark import BenchmarkConfig
from clray.streams.examples import TensorExamples, cumulate
from clray.streams.sharded import ShardedExamples
from clray.streams.shards import read_labels
from clray.task import Stream

NAMES = registry.names("benchmark")
GENERIC: dict[str, Any] = {"dataset": "digits", "num_tasks": 5}
PARTS = {"dataset": "digits + synthetic/5x20", "image_size": 8, "channels": 1}


@pytest.fixture(scope="module", autouse=True)
def _stored(stored_digits: str) -> None:
    GENERIC["stream"] = stored_digits


def config_of(name: str, **knobs: Any) -> BenchmarkConfig:
    fields = registry.find("benchmark", name).config.model_fields
    needed = {k: v for k, v in GENERIC.items() if k in fields and fields[k].is_required()}
    if name == "several":
        needed = PARTS
    config: BenchmarkConfig = registry.configure(
        "benchmark", Component(name=name, **{**needed, **knobs})
    )
    return config


def build(name: str, split: Any = "validation", seed: int = 0, **knobs: Any) -> Stream:
    return config_of(name, **knobs).build(split, 0.2, seed, torch.device("cpu"))


def rows(examples: Any) -> list[int]:
    if isinstance(examples, ShardedExamples):
        paths = [shard.path for shard in examples.content.shards]
        ids: list[int] = read_labels(examples.content.uri, paths)[1].tolist()
        return ids
    if not isinstance(examples, TensorExamples):
        pytest.skip("its rows are not known")
    indices: list[int] = examples.index.tolist()
    return indices


def content(examples: Any, **options: Any) -> tuple[Tensor, Tensor]:
    xs, ys = zip(*examples.batches(100, **options), strict=True)
    return torch.cat(xs), torch.cat(ys)


def fingerprints(examples: Any, **options: Any) -> Tensor:
    """A number for each image, whatever their order."""
    pixels = content(examples, **options)[0].flatten(1)
    pixels = (pixels.view(torch.int32) if pixels.is_floating_point() else pixels).long()
    weights = torch.randint(2**32, (pixels.shape[1],), generator=torch.Generator().manual_seed(0))
    return (pixels @ weights).sort().values


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Every benchmark whose data are here."""
    chosen: str = request.param
    dataset = getattr(config_of(chosen), "dataset", "")
    if dataset.startswith(("torchvision/", "omniglot")):
        pytest.skip(f"{dataset} would have to be downloaded")
    try:
        config_of(chosen).check()
    except BadData as error:
        pytest.skip(str(error))
    return chosen


@pytest.mark.parametrize("chosen", NAMES)
def test_it_says_what_it_is_and_what_its_knobs_are(chosen: str) -> None:
    found = registry.find("benchmark", chosen)
    assert found.summary.endswith((".", "CPU."))
    for knob, field in found.config.model_fields.items():
        assert field.description, f"{chosen}: {knob} is not described"


@pytest.mark.parametrize("chosen", NAMES)
def test_it_checks_itself(chosen: str) -> None:
    try:
        count = config_of(chosen).check()
    except BadData as error:
        pytest.skip(str(error))
    assert count >= 2


def test_filled_in_knobs_mean_the_same(name: str) -> None:
    config = config_of(name)
    again = Component(name=name, **config.model_dump(mode="json"))
    assert registry.configure("benchmark", again) == config


@pytest.mark.parametrize("split", ["validation", "test"])
def test_its_tasks_are_well_formed(name: str, split: str) -> None:
    stream = build(name, split)
    assert len(stream.tasks) == config_of(name).check()
    assert [t.index for t in stream.tasks] == list(range(len(stream.tasks)))
    assert len({t.name for t in stream.tasks}) == len(stream.tasks)
    units = [set(t.classes) for t in stream.tasks]
    assert set.union(*units) == set(range(stream.num_classes))
    if stream.scenario in ("class-incremental", "task-incremental"):
        assert sum(map(len, units)) == stream.num_classes
    else:
        assert all(own == units[0] for own in units)
    for task in stream.tasks:
        for examples in (task.train, task.eval):
            x, y = content(examples)
            assert len(x) == len(examples) > 0
            assert x.dtype == (torch.uint8 if stream.square is None else torch.float32)
            assert y.dtype == torch.int64
            assert tuple(x.shape[1:]) == stream.image_shape
            assert set(y.tolist()) == set(task.classes)


def test_nothing_is_both_learned_and_graded_on(name: str) -> None:
    stream = build(name)
    learned = {row for task in stream.tasks for row in rows(task.train)}
    held = {row for task in stream.tasks for row in rows(task.eval)}
    assert not learned & held
    final = build(name, "test")
    assert {row for task in final.tasks for row in rows(task.train)} == learned | held


def test_each_half_holds_its_own_images_only(name: str) -> None:
    stream, final = build(name), build(name, "test")
    for task, last in zip(stream.tasks, final.tasks, strict=True):
        parts = (task.train, task.eval, last.train, last.eval)
        if isinstance(task.train, ShardedExamples):
            stored = [p for p in parts if isinstance(p, ShardedExamples)]
            splits = [{part.split for part in p.content.parts} for p in stored]
            assert splits == [{"train"}, {"validation"}, {"train", "validation"}, {"test"}]
            continue
        held = [p.images for p in parts if isinstance(p, TensorExamples)]
        assert held[0] is held[1]
        assert held[1] is held[2]
        assert held[3] is not held[2]


def test_its_stream_is_a_function_of_the_seed(name: str) -> None:
    same, again, other = build(name), build(name), build(name, seed=1)
    for a, b in zip(same.tasks, again.tasks, strict=True):
        assert (a.name, a.classes) == (b.name, b.classes)
        for p, q in ((a.train, b.train), (a.eval, b.eval)):
            (px, py), (qx, qy) = content(p, seed=3), content(q, seed=3)
            assert torch.equal(px, qx)
            assert torch.equal(py, qy)
    pairs = zip(same.tasks, other.tasks, strict=True)
    drawn_anew = not isinstance(same.tasks[0].train, ShardedExamples)  # or once, by the build
    assert all((rows(a.eval) != rows(b.eval)) == drawn_anew for a, b in pairs)


def test_batches_are_a_partition_and_ranks_share_them(name: str) -> None:
    task = build(name).tasks[-1]
    whole = list(task.train.batches(33, seed=1, epoch=2))
    shares = [list(task.train.batches(33, seed=1, epoch=2, rank=r, world=2)) for r in range(2)]
    assert sum(len(x) for x, _ in whole) == len(task.train)
    for i, (x, y) in enumerate(whole):
        assert torch.equal(torch.cat([shares[0][i][0], shares[1][i][0]]), x)
        assert torch.equal(torch.cat([shares[0][i][1], shares[1][i][1]]), y)
    assert torch.equal(fingerprints(task.train, seed=1), fingerprints(task.train))


def test_names_and_rows_survive_another_order(name: str) -> None:
    config = config_of(name)
    if "task_order" not in type(config).model_fields:
        pytest.skip("no task_order")
    count = config.check()
    plain = {t.name: t for t in build(name).tasks}
    stream = build(name, task_order=list(reversed(range(count))))
    assert [t.name for t in stream.tasks] == list(reversed(plain))
    for task in stream.tasks:
        same = plain[task.name]
        assert task.classes == same.classes
        assert rows(task.train) == rows(same.train)
        assert torch.equal(content(task.eval)[0], content(same.eval)[0])


def test_cumulated_tasks_hold_each_row_once_in_its_own_guise(name: str) -> None:
    stream = build(name)
    joint = cumulate(stream)
    for t, (task, plain) in enumerate(zip(joint.tasks, stream.tasks, strict=True)):
        assert task.eval is plain.eval
        assert (task.name, task.classes) == (plain.name, plain.classes)
        assert rows(task.train) == [r for p in stream.tasks[: t + 1] for r in rows(p.train)]
    parts = [content(p.train) for p in stream.tasks]
    x, y = content(joint.tasks[-1].train)
    assert torch.equal(x, torch.cat([p[0] for p in parts]))
    assert torch.equal(y, torch.cat([p[1] for p in parts]))
