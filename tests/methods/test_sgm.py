"""What SGM adds to rehearsal, whole and part by part."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from clray import registry, trial
from clray.errors import BadSpec
from clray.learner import Learner
from clray.models.classifier import Classifier
from clray.models.frozen_rows import FrozenRows
from clray.models.low_rank_adapters import LowRankAdapter
from clray.spec import Storing, TrialSpec
from clray.store import Folder
from tests.methods.conftest import small_learner
from tests.methods.rehearsed import (
    CLASSES,
    adam,
    begin,
    enter,
    learn,
    made,
    normalised,
    rectified,
    same,
    state,
    step,
    stream,
)

NOTHING: dict[str, Any] = {
    "new_rows": "random",
    "soft_targets": "none",
    "lora": "off",
    "freeze_old": "none",
    "schedule": "constant",
    "peak": 1.0,
}
HEAD = ("head.weight", "head.bias")


def test_without_its_parts_it_is_rehearsal() -> None:
    sgm, er = made("sgm", **NOTHING), made("er")
    for task in stream():
        assert learn(sgm, task) is None
        assert learn(er, task) is None
        assert same(sgm, er)
    assert sgm.memory.drawn == er.memory.drawn == 2 * 20 * 8


def test_the_first_task_is_learned_as_by_rehearsal() -> None:
    sgm, er, first = made("sgm"), made("er"), stream()[0]
    assert learn(sgm, first) is None
    assert learn(er, first) is None
    assert same(sgm, er)


def test_rehearsal_may_have_each_part() -> None:
    whole: dict[str, Any] = {
        "new_rows": "class-means",
        "soft_targets": "both",
        "lora": "auto",
        "freeze_old": "exact",
        "schedule": "onecycle",
        "peak": 1.5,
    }
    sgm, er = made("sgm"), made("er", **whole)
    for task in stream():
        assert learn(sgm, task) == learn(er, task)
    assert same(sgm, er)


def test_adapters_and_new_rows_alone_learn() -> None:
    learner = made("sgm", lora_rank=3)
    first, second, _ = stream()
    learn(learner, first)
    before, names = state(learner), list(state(learner))
    begin(learner, second)
    encoder = learner.model.encoder
    adapters = [m for m in encoder.modules() if isinstance(m, LowRankAdapter)]
    head = learner.model.head
    assert isinstance(head, FrozenRows)
    trained = {id(p) for a in adapters for p in (a.down, a.up)}
    trained |= {id(p) for p in head.parameters()}
    assert {id(p) for p in learner.model.parameters() if p.requires_grad} == trained
    assert {id(p) for g in learner.optimizer.param_groups for p in g["params"]} == trained
    x, y, _ = learner.memory.draw(8)  # old examples alone
    learner.mitigation.loss(learner, learner.forward(x), y).backward()
    assert all(a.up.grad is not None and a.up.grad.any() for a in adapters)
    learner = made("sgm", lora_rank=3)
    learn(learner, first)
    facts = learn(learner, second)
    after = state(learner)
    assert list(after) == names
    assert facts is not None
    assert facts["lora_parameters"] == 3 * (36 + 24 + 24 + 16)
    adapted = {"encoder.1.weight", "encoder.4.weight"}
    for name in set(after) - set(HEAD):
        assert torch.equal(before[name], after[name]) == (name not in adapted), name
    for name in HEAD:
        assert torch.equal(before[name][:2], after[name][:2])
        assert (before[name][2:4] != after[name][2:4]).all()
    assert all(p.requires_grad for p in learner.model.parameters())
    assert type(learner.model.head) is nn.Linear
    assert {"initial_lr", "max_lr"}.isdisjoint(learner.optimizer.param_groups[0])


def test_old_rows_shrink_where_only_their_gradient_is_zero() -> None:
    learner = made("sgm", freeze_old="gradient", new_rows="random", schedule="constant", peak=1.0)
    first, second, _ = stream()
    learn(learner, first)
    before = state(learner)
    learn(learner, second)
    shrunk = before["head.weight"][:2] * (1 - 0.01 * 0.05) ** 20
    torch.testing.assert_close(state(learner)["head.weight"][:2], shrunk)


@pytest.mark.parametrize("knobs", [{}, {"layer_decay": 0.8, "freeze_old": "gradient"}])
def test_evaluating_in_between_changes_nothing(knobs: dict[str, Any]) -> None:
    """In the frame's manner: modes are put back module by module."""
    looked, alone = made("sgm", **knobs), made("sgm", **knobs)
    tasks = stream()
    for learner in (looked, alone):
        learn(learner, tasks[0])
        begin(learner, tasks[1])
    x, y, _ = looked.memory.spread(9)
    for number in range(5):
        step(alone, tasks[1], number)
        step(looked, tasks[1], number)
        modes = [m.training for m in looked.model.modules()]
        looked.train_mode(False)
        with torch.no_grad():
            looked.predict(x, None)
        for module, training in zip(looked.model.modules(), modes, strict=True):
            module.training = training
        assert same(looked, alone)
    looked.mitigation.loss(looked, looked.forward(x), y).backward()
    adapters = [m for m in looked.model.modules() if isinstance(m, LowRankAdapter)]
    assert all(a.down.grad is not None and a.down.grad.any() for a in adapters)


@pytest.mark.parametrize(
    "knobs",
    [
        {"later_batch": 3},
        {"schedule": "cosine", "layer_decay": 0.9, "prefill": True, "freeze_old": "gradient"},
    ],
)
def test_goes_on_bit_for_bit_in_the_middle_of_a_task(knobs: dict[str, Any]) -> None:
    one = made("sgm", **knobs)
    tasks = stream()
    learn(one, tasks[0])
    begin(one, tasks[1])
    for number in range(7):
        step(one, tasks[1], number)
    stored = io.BytesIO()
    torch.save((one, torch.get_rng_state()), stored)
    ends = []
    for again in (False, True):
        learner: Learner = one
        if again:
            stored.seek(0)
            learner, random = torch.load(stored, weights_only=False)
            torch.set_rng_state(random)
        for number in range(7, 20):
            if number == 10:
                enter(learner, tasks[1], 1)
            step(learner, tasks[1], number)
        facts = learner.end_task(tasks[1])
        ends.append((learner, facts, learn(learner, tasks[2])))
    assert ends[0][1:] == ends[1][1:]
    assert same(ends[0][0], ends[1][0])


def test_the_batch_is_mixed_as_in_the_released_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 + 128, then 96 + 128 + 32, an eighth of each."""
    learner = made("sgm", memory=60, memory_batch=16, later_batch=4, setting={"batch_size": 16})
    seen: list[Counter[int]] = []
    monkeypatch.setattr(learner.mitigation, "loss", counting(learner.mitigation.loss, seen))
    tasks = stream(48)
    for task, size in zip(tasks, (16, 16, 12), strict=True):
        begin(learner, task)
        for epoch in range(3):
            x, y = next(iter(task.train.batches(size, seed=epoch)))
            learner.observe(x, y, task)
        learner.end_task(task)
    assert seen[:3] == [Counter({0: 16})] * 3
    assert seen[3:6] == [Counter({1: 16, 0: 16})] * 3
    assert seen[6:] == [Counter({2: 12, 0: 16, 1: 4})] * 3
    assert len(learner.memory) == 60
    assert len(learner.memory.first) == 48
    assert Counter((learner.memory.spread(60)[1] // 2).tolist())[0] == 48


def counting(loss: Any, seen: list[Counter[int]]) -> Any:
    def counted(learner: Learner, logits: Tensor, y: Tensor) -> Tensor:
        seen.append(Counter((y // 2).tolist()))
        answer: Tensor = loss(learner, logits, y)
        return answer

    return counted


@pytest.mark.parametrize(("make", "warned"), [(rectified, True), (normalised, False)])
def test_class_means_that_drown_old_classes_are_told_of(make: Any, warned: bool) -> None:
    learner = made("er", make(), new_rows="class-means", setting={"updates": 20})
    tasks = stream()
    learn(learner, tasks[0])
    torch.manual_seed(1)
    before = learner.setup.generator.get_state(), torch.get_rng_state()
    begin(learner, tasks[1])
    now = learner.setup.generator.get_state(), torch.get_rng_state()
    assert all(map(torch.equal, before, now))  # measuring draws nothing
    facts = learner.end_task(tasks[1])
    assert facts is not None
    drop = facts["old_accuracy_before_initialisation"] - facts["old_accuracy_after_initialisation"]
    assert (drop > 0.05) == warned == ("warning" in facts)
    if warned:
        assert "method.new_rows=least-squares" in facts["warning"]
        assert "layer normalisation" in facts["warning"]


def test_adapters_are_for_networks_that_were_pre_trained() -> None:
    tasks = stream()
    for lora, pretrained in (("auto", False), ("on", False), ("auto", True)):
        learner = made("sgm", lora=lora, setting={"pretrained": pretrained})
        learn(learner, tasks[0])
        facts = learn(learner, tasks[1])
        assert facts is not None
        off = (lora, pretrained) == ("auto", False)
        assert ("lora_parameters" in facts) == (not off)
        assert (facts.get("lora") == "off (the model's encoder is not pre-trained)") == off
        told = "not pre-trained elsewhere" in facts.get("warning", "")
        assert told == (lora == "on")


def test_adapters_that_do_not_suit_the_network_are_refused() -> None:
    assert made("sgm").mitigation.rank == 4  # a quarter of 16
    with pytest.raises(BadSpec, match=r"method\.lora_rank: got 17; accepted: 1 to 16"):
        made("sgm", lora_rank=17)
    flat = Classifier(nn.Sequential(nn.Flatten()), nn.Linear(36, CLASSES))
    with pytest.raises(BadSpec, match=r"method\.lora: got 'on'"):
        made("sgm", flat, lora="on")
    assert made("sgm", flat).mitigation.rank is None
    with pytest.raises(BadSpec, match=r"protocol\.memory: got 1"):
        made("sgm", memory=1, later_batch=1)


def test_where_tasks_share_their_classes_no_row_is_set_or_frozen(tasks: Any) -> None:
    learner = small_learner("sgm", setting={"optimizer": adam})
    for task in tasks:
        learner.train_mode(True)
        learner.begin_task(task)
        assert type(learner.model.head) is nn.Linear
        for x, y in task.train.batches(8):
            learner.observe(x, y, task)
        facts = learner.end_task(task) or {}
        assert "old_accuracy_before_initialisation" not in facts


@pytest.mark.parametrize("prefill", [False, True])
def test_takes_over_in_the_middle_of_a_stream(prefill: bool) -> None:
    """Nothing is remembered then, and no class is known to be old."""
    learner, tasks = made("sgm", prefill=prefill, later_batch=2), stream()
    facts = learn(learner, tasks[1])
    assert facts is not None
    assert "old_accuracy_before_initialisation" not in facts
    assert learn(learner, tasks[2]) is not None
    assert all(value.isfinite().all() for value in state(learner).values())


def trial_of(prefill: bool) -> TrialSpec:
    """All parts on, on new classes."""
    method = {"name": "sgm", "lora": "on", "lora_rank": 4, "prefill": prefill, "later_batch": 5}
    return registry.complete(
        TrialSpec.model_validate(
            {
                "method": method,
                "benchmark": {"name": "split-digits", "scenario": "class-incremental"},
                "model": {"name": "mlp", "hidden": [32, 32]},
                "protocol": {"updates": 12, "memory": 40, "batch_size": 33},
                "optimizer": {"lr": 0.05},
            }
        )
    )


def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.methods.test_sgm", str(tmp_path)]
    root = Path(__file__).parents[2]
    workers = [subprocess.Popen([*command, str(rank)], cwd=root) for rank in range(2)]
    assert [worker.wait(timeout=300) for worker in workers] == [0, 0]
    for prefill in (True, False):
        alone, theirs = tmp_path / f"alone-{prefill}", tmp_path / f"two-{prefill}"
        trial.run(trial_of(prefill), Folder(str(alone)), storing=Storing(model=True))
        one, two = (load_file(path / "model.safetensors") for path in (alone, theirs))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, two[name], rtol=1e-4, atol=1e-5)


def _worker(rank: int, root: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=2)
    for prefill in (True, False):
        folder = Folder(f"{root}/two-{prefill}")
        trial.run(trial_of(prefill), folder, storing=Storing(model=True))
    dist.destroy_process_group()


if __name__ == "__main__":
    _worker(int(sys.argv[2]), sys.argv[1])
