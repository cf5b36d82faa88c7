"""What a dry run shows of a job."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from clray.cli.job_settings import chosen_on
from clray.cli.plan import PlannedBoard, plan_page, task_trainings
from clray.events import Stage
from clray.job import JobSpec
from clray.parsing import merge
from clray.selection import Selection
from clray.space import SearchSpace

SPACE = SearchSpace.model_validate(
    {"method": {"strength": {"range": [1, 100], "log": True}}, "optimizer": {"lr": 0.1}}
)
PLAIN: dict[str, Any] = {
    "name": "a",
    "benchmark": "split-digits",
    "methods": {"ewc": {"method": {"name": "ewc", "strength": 9, "decay": 0.5}}, "joint": {}},
    "final": {"seeds": 3},
}
SEVERAL: dict[str, Any] = {
    "name": "a",
    "benchmarks": {"split": "split-digits", "other": {"benchmark": "permuted-digits"}},
    "methods": ["ewc"],
    "protocol": {"selection": ["end-of-training", "oracle"]},
}


def _job(**others: Any) -> JobSpec:
    return JobSpec.model_validate(merge(PLAIN, others))


def _selection(plain: Any) -> Selection:
    return _job(protocol={"selection": plain}).protocol.selection[0]


def _board(selection: Any = "end-of-training", name: str = "", **others: Any) -> PlannedBoard:
    planned: dict[tuple[str, Stage], int] = {
        ("ewc", "search"): 16,
        ("ewc", "test"): 3,
        ("joint", "search"): 1,
        ("joint", "test"): 3,
    }
    spaces = {"ewc": SPACE, "joint": SearchSpace()}
    given = {"num_tasks": 5, "planned": planned, "spaces": spaces, **others}
    return PlannedBoard(name, "split-digits", _selection(selection), **given)


def _page(job: JobSpec, *boards: PlannedBoard, colour: bool = False) -> str:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=colour, markup=False, highlight=False)
    console.print(plan_page(job, boards))
    assert colour or max(map(len, text.getvalue().splitlines())) <= 80
    return text.getvalue()


def _row(page: str, *first: str) -> list[str]:
    [row] = [words for line in page.splitlines() if tuple((words := line.split())[:1]) == first]
    return row


def test_what_is_an_entrys_own() -> None:
    own = {"model": {"name": "mlp", "hidden": [7]}, "benchmarks": ["other"]}
    job = JobSpec.model_validate({**SEVERAL, "methods": {"ewc": own, "er": {}}})
    page = " ".join(_page(job).split())
    assert "ewc; with mlp, hidden [7]; on other" in page


def test_one_board() -> None:
    page = _page(_job(), _board())
    assert "split-digits, 5 tasks: 17 search trials, 6 test runs, about 115 task trainings" in page
    assert "chosen on validation examples of the whole stream, at its end" in page
    assert page.count("method.strength  1 to 100, logarithmic") == 1
    assert "nothing is searched" in page
    assert _row(page, "entry") == ["entry", "method", "search", "trials", "test", "runs"]
    assert _row(page, "in")[1:] == ["all", "17", "6"]
    assert "strength\u00a09" not in page, "a searched knob is not shown as fixed"


def test_several_boards_are_a_row_each() -> None:
    job = JobSpec.model_validate(SEVERAL)
    narrow = SPACE.without(["method.strength"])
    boards = [
        _board("end-of-training", "split/end-of-training"),
        _board("oracle", "split/oracle"),
        _board("end-of-training", "other/end-of-training", num_tasks=10),
        _board("oracle", "other/oracle", num_tasks=10, spaces={"ewc": narrow}),
    ]
    page = _page(job, *boards)
    assert "4 boards" in page
    assert _row(page, "split/end-of-training")[1:] == ["5", "17", "6", "~", "115"]
    assert "split/oracle, chosen on test" in page
    assert _row(page, "other/end-of-training")[1:] == ["10", "17", "6", "~", "230"]
    assert _row(page, "in")[1:] == ["all", "68", "24"]
    assert "ewc  on split/end-of-training, split/oracle, other/end-of-training" in page
    assert "ewc  on other/oracle" in page


def test_chosen_on_test_is_red() -> None:
    for oracle in ("oracle", {"name": "two-stage", "then": "oracle"}):
        page = _page(_job(protocol={"selection": oracle}), _board(oracle), colour=True)
        assert page.count("\x1b[1;31mchosen on test\x1b[0m") == 2  # the setting and the board
    assert "31m" not in _page(_job(), _board(), colour=True)


@pytest.mark.parametrize(
    ("others", "row"),
    [
        ({"search": {"objective": ["forgetting", "average_accuracy"]}}, "lowest forgetting, high"),
        ({"search": {"constraints": "growth <= 0.2"}}, "constraints growth <= 0.2"),
        ({"search": {"seeds": 2, "orders": 3}}, "each trial 2 seeds x 3 orders, averaged, ended"),
        ({"search": {"scheduler": "asha"}}, "early stops asha by task, after 33% of the stream"),
        ({"search": {"scheduler": {"name": "median", "by": "epoch"}}}, "median by epoch, from 10%"),
        ({"search": {"scheduler": "asha"}}, "timing may change it"),
        ({"search": {"scheduler": "none"}}, "random trials first, deterministic"),
        ({"search": {"warm_start": ["b", "c"]}}, "warm start the trials of b, c"),
        ({"search": {"sampler": "random"}}, "search random, seed 0, deterministic"),
        ({"final": {"orders": ["natural", 7, [1, 0]]}}, "x 3 orders (natural, 7, [1, 0])"),
        ({"final": {"orders": 5}}, "test 3 fresh seeds x 5 orders for each entry's choice"),
        ({"loggers": [{"name": "mlflow", "uri": "http://x"}]}, "logger mlflow, uri http://x"),
        ({"protocol": {"selection": {"name": "first-k", "reuse": True}}}, "again: a leak"),
        ({"protocol": {"selection": {"name": "first-k", "label": "k"}}}, "k (first-k): chosen on"),
        ({"protocol": {"selection": {"name": "two-stage", "k": 2}}}, "on the first 2 tasks"),
    ],
)
def test_settings(others: dict[str, Any], row: str) -> None:
    page = " ".join(_page(_job(**others), _board()).replace("\u00a0", " ").split())
    assert row in page


@pytest.mark.parametrize(
    ("selection", "others", "trainings"),
    [
        ("end-of-training", {}, 17 * 5 + 6 * 5),
        ("end-of-training", {"search": {"seeds": 2, "orders": 3}}, 17 * 6 * 5 + 6 * 5),
        ({"name": "first-k", "k": 2}, {}, 17 * 2 + 6 * 3),
        ({"name": "first-k", "k": 2, "reuse": True}, {}, 17 * 2 + 6 * 5),
        ("seen-tasks", {}, 17 * 1 + 6 * 5),
        ("gtep", {}, 17 * 2 + 6 * 3),
        ({"name": "gtep", "tune_on": "split-mnist"}, {}, 17 * 5 + 6 * 5),
        ({"name": "two-stage", "then": "first-k"}, {}, 17 * 3 + 6 * 2),
    ],
)
def test_task_trainings(selection: Any, others: dict[str, Any], trainings: int) -> None:
    assert task_trainings(_job(**others), _board(selection)) == trainings
    assert task_trainings(_job(**others), _board(selection, task_trainings=7)) == 7


def test_words_for_leaks() -> None:
    assert "not reported" in chosen_on(_selection("first-k")).plain
    assert "not reported" not in chosen_on(_selection({"name": "first-k", "reuse": True})).plain


def test_a_job_that_is_only_shown() -> None:
    page = _page(
        JobSpec.model_validate({**PLAIN, "methods": {"ewc": {}, "joint": {"space": SPACE}}})
    )
    assert _row(page, "in")[1:] == ["all", "32", "6"]
    assert "method.strength  1 to 10000, logarithmic" in page
