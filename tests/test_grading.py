"""How a learner is graded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clray import assembly, registry
from clray.grading import Grader
from clray.spec import Resources, TrialSpec
from clray.task import Task

CPU = torch.device("cpu")


def test_tasks_that_share_their_examples_are_graded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = registry.complete(
        TrialSpec.model_validate({"method": "finetune", "benchmark": "chunked-digits"})
    )
    stream = assembly.build_stream(spec, CPU, Resources())
    learner = assembly.build_learner(spec, stream, CPU)
    predict, asked = learner.predict, 0

    def counted(x: Tensor, task: Task | None) -> Tensor:
        nonlocal asked
        asked += len(x)
        return predict(x, task)

    monkeypatch.setattr(learner, "predict", counted)
    row = Grader(stream, "growing", CPU).accuracies(learner, seen=1)
    ((x, y),) = stream.tasks[-1].eval.batches(10_000)
    assert asked == len(x)
    assert row == [float((predict(x, None).argmax(1) == y).double().mean())] * len(stream.tasks)
