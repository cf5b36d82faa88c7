"""The leaderboard, from a final.json made by hand."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from clray.report.board_table import ALARM
from clray.report.leaderboard import bounds, failures, leaderboard, ranked
from clray.report.stored import Board, Final

ER = [0.80, 0.82, 0.81, 0.83, 0.80]
AGEM = [0.79, 0.80, 0.83, 0.80, 0.81]
EWC = [0.45, 0.44, 0.49, 0.41, 0.43]


def _rows(made: Any) -> list[dict[str, Any]]:
    knobs = {"method.strength": 100.0, "optimizer.lr": 0.05}
    return [
        made.row("agem", AGEM),
        made.row("ewc", EWC, values=knobs),
        made.row("er", ER),
        made.row("joint", [0.95, 0.96, 0.95, 0.94, 0.95], bound=True),
        made.row("gem", [], error="none of 16 trials completed", key=None, budget={}),
    ]


def _shown(content: dict[str, Any], width: int, **terminal: Any) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, markup=False, highlight=False, **terminal)
    console.print(leaderboard(Final.model_validate(content), width))
    shown = text.getvalue()
    assert terminal or max(map(len, shown.splitlines())) <= width
    return shown


def _flat(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def _cells(shown: str, *start: str) -> list[str]:
    """The first line that begins so."""
    lines = [line.split() for line in shown.splitlines()]
    return next(line for line in lines if line[: len(start)] == list(start))


def test_ranks_by_mean_with_bounds_and_failures_apart(made: Any) -> None:
    board = Board.model_validate(made.board(_rows(made)))
    assert [row.label for row in ranked(board)] == ["er", "agem", "ewc"]
    assert [row.label for row in bounds(board)] == ["joint"]
    assert [row.label for row in failures(board)] == ["gem"]


def test_the_direction_of_the_objective_ranks(made: Any) -> None:
    board = Board.model_validate(made.board(_rows(made), objectives=["forgetting"]))
    assert [row.label for row in ranked(board)] == ["er", "agem", "ewc"]
    other = {"metric": "forgetting", "direction": "maximize"}
    turned = Board.model_validate(made.board(_rows(made), objectives=[other]))
    assert [row.label for row in ranked(turned)] == ["ewc", "agem", "er"]


@pytest.mark.parametrize("width", [80, 120])
def test_shows_everything_that_matters(width: int, made: Any) -> None:
    shown = _shown(made.final(made.board(_rows(made))), width)
    for piece in (
        "quickstart split-digits, class-incremental, 5 tasks, mlp",
        "0.812 ± 0.016 a",
        "0.806 ± 0.019 a",
        "0.444 ± 0.037 b",
        "0.094 ± 0.008",
        "1.23 M",
        "200",
        "3 min 20 s",
        "strength 100, lr 0.05",
        "gem failed none of 16 trials completed",
        "mean ± 95 % interval over 5 fresh seeds, ranked by average accuracy",
        "paired over seeds, 5 %, Holm's correction for 3 comparisons",
        "average accuracy on validation examples of the whole stream",
        "a deterministic sweep",
        "Each choice cost 16 trials, 80 task trainings, 160 k examples, 1 min 30 s.",
        "Bounds stand below the rule",
    ):
        assert piece in _flat(shown), piece
    assert "test examples" not in shown


def test_a_single_trial_is_told_as_one(made: Any) -> None:
    budget = {"trials": 1, "task_trainings": 5, "examples_seen": 900}
    shown = _shown(made.final(made.board([made.row("er", ER, budget=budget)])), 100)
    assert "Each choice cost 1 trial, 5 task trainings, 900 examples." in _flat(shown)


def test_bounds_stand_below_a_rule_without_a_rank(made: Any) -> None:
    lines = _shown(made.final(made.board(_rows(made))), 100).splitlines()
    joint = next(i for i, line in enumerate(lines) if line.split()[:1] == ["joint"])
    assert set(lines[joint - 1].strip()) == {"─"}
    first = next(i for i, line in enumerate(lines) if line.split()[:2] == ["1", "er"])
    assert first < joint


def test_one_seed_has_no_interval_and_no_letters(made: Any) -> None:
    rows = [made.row("er", [0.8]), made.row("ewc", [0.4])]
    shown = _shown(made.final(made.board(rows)), 80)
    assert "±" not in shown
    assert "from 1 fresh seed," in shown
    assert "letter" not in shown


def test_a_mean_over_survivors_is_not_ranked(made: Any) -> None:
    error = "2 of 5 test runs did not complete: diverged"
    rows = [made.row("er", [0.9, None, 0.9, None, 0.9], error=error), made.row("ewc", EWC)]
    board = made.board(rows)
    assert [row.label for row in ranked(Board.model_validate(board))] == ["ewc"]
    assert f"er failed {error}" in _flat(_shown(made.final(board), 100))


def test_a_failed_trial_of_a_ranked_row_is_noted(made: Any) -> None:
    trials = {"completed": 15, "failed": 1}
    row = made.row("er", ER, error="1 of 16 trials failed; trial 3: boom", trials=trials)
    shown = _flat(_shown(made.final(made.board([row])), 100))
    assert "er note 1 of 16 trials failed; trial 3: boom" in shown
    assert "er 1 failed" in shown


def test_nothing_but_failures(made: Any) -> None:
    shown = _shown(made.final(made.board(_rows(made)[-1:], deterministic=False)), 80)
    assert "none of 16 trials completed" in shown
    assert "forgetting" not in shown
    assert "timing may change this sweep" in shown


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("wrapped", [False, True])
def test_chosen_on_test_stands_beside_every_number(width: int, wrapped: bool, made: Any) -> None:
    """The title, each row and the footer, in red."""
    selection = {"name": "two-stage", "then": {"name": "oracle"}} if wrapped else {"name": "oracle"}
    chosen_on = "test; training knobs by fine-tuning" if wrapped else "test"
    board = made.board(_rows(made), selection=selection, title="oracle", chosen_on=chosen_on)
    shown = _shown(made.final(board), width)
    title = shown.splitlines()[0]
    assert title.endswith("chosen on test")
    assert all(
        "chosen on test" in line
        for line in shown.splitlines()
        if line.count(".") > 1 and "0." in line and "lr" not in line
    )
    assert sum("chosen on test" in line for line in shown.splitlines()) == 5
    assert "Chosen on test: on the very examples that are reported." in _flat(shown)
    coloured = _shown(made.final(board), width, force_terminal=True, color_system="standard")
    assert ALARM == "bold red"
    assert coloured.count("\x1b[1;31m") + coloured.count("\x1b[1;2;31m") >= 6
    plain = _shown(made.final(made.board(_rows(made))), width)
    assert "chosen on test" not in plain.lower()


def test_a_leak_is_marked(made: Any) -> None:
    board = made.board(_rows(made), leak="the tasks chosen on are reported again")
    shown = _shown(made.final(board), 80)
    assert _cells(shown, "1", "er")[2] == "leak"
    assert shown.splitlines()[0].endswith("leak")
    assert "Leak: the tasks chosen on are reported again. These numbers" in _flat(shown)


@pytest.mark.parametrize("width", [80, 120])
def test_orders(width: int, made: Any) -> None:
    rows = [
        made.row(label, values * 3, orders=["natural", "7", "A"], order_disparity=[0.05, 0.21])
        for label, values in (("er", ER), ("ewc", EWC))
    ]
    shown = _shown(made.final(made.board(rows)), width)
    assert "AOPD MOPD" in _flat(shown)
    assert "0.050 0.210" in _flat(shown)
    assert "over 5 fresh seeds in each of 3 orders" in _flat(shown)
    assert "best of 3 orders (natural, 7, A)" in _flat(shown)
    assert "paired over seeds and orders" in _flat(shown)
    assert "Learned once" not in _flat(shown)


def test_what_orders_share(made: Any) -> None:
    counts = {"tasks": 40, "tasks_learned": 30, "steps": 7560, "steps_learned": 5670}
    rows = [made.row("er", ER, shared=counts), made.row("ewc", EWC)]
    shown = _flat(_shown(made.final(made.board(rows)), 120))
    said = "Learned once for all orders that begin with the same task: er 30 of 40 tasks (5.67 k of"
    assert said in shown
    assert "7.56 k steps)." in shown


@pytest.mark.parametrize("width", [80, 120])
def test_a_trajectory_is_shortened(width: int, made: Any) -> None:
    path = [{"optimizer.lr": 0.1 / 2**task, "method.strength": 100.0} for task in range(20)]
    shown = _shown(made.final(made.board([made.row("er", ER, trajectory=path)])), width)
    assert "lr 0.1 → 0.05 → 0.025 → … → 1.907e-07," in _flat(shown)
    assert "strength 100" in _flat(shown)


def _front(made: Any) -> dict[str, Any]:
    rows = []
    for number, (label, accuracy, growth) in enumerate(
        [("ewc", 0.9, 0.3), ("ewc", 0.8, 0.1), ("er", 0.7, 0.2)]
    ):
        row = made.row(label, [accuracy, accuracy + 0.01], number=number)
        row["test"]["growth"] = made.estimate([growth] * 2)
        row["test"]["parameters"] = made.estimate([46000, 46200])
        rows.append(row)
    objectives = ["average_accuracy", "growth", "parameters"]
    board: dict[str, Any] = made.board(rows, objectives=objectives, constraints=["growth <= 0.2"])
    return board


@pytest.mark.parametrize("width", [80, 120])
def test_a_front_has_a_row_for_each_point_and_a_column_for_each_objective(
    width: int, made: Any
) -> None:
    shown = _shown(made.final(_front(made)), width)
    assert _cells(shown, "1", "ewc", "#0", "•")
    assert _cells(shown, "2", "ewc", "#1", "•")
    assert _cells(shown, "3", "er")[2] != "•"
    assert "0.300 ± 0.000" in shown
    assert "46.1 k ± 1.27 k" in shown
    assert "average accuracy ↑, growth ↓, parameters ↓" in _flat(shown)
    assert "must keep growth <= 0.2. On test ewc #0 breaks growth <= 0.2." in _flat(shown)


@pytest.mark.parametrize("width", [80, 120])
def test_transfer(width: int, made: Any) -> None:
    row = made.row("er", ER)
    row["transfer"] = {"configurations": 12, "rank_correlation": 0.834, "regret": 0.021}
    shown = _shown(made.final(made.board([row, made.row("ewc", EWC)])), width)
    assert "0.834 0.021" in _flat(shown)
    assert "of 12 configurations" in _flat(shown)
    assert "Not known of ewc." in _flat(shown)


def _boards(made: Any) -> list[dict[str, Any]]:
    turned = _rows(made)
    turned[1] = made.row("ewc", [value + 0.45 for value in EWC])
    oracle = {"title": "oracle", "selection": {"name": "oracle"}, "chosen_on": "test"}
    return [
        made.board(_rows(made), name="end-of-training"),
        made.board(turned, name="first-k", title="first-k", reported=["4-5", "6-7"]),
        made.board(_rows(made), name="oracle", **oracle),
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_boards_side_by_side(width: int, made: Any) -> None:
    shown = _shown(made.final(*_boards(made)), width)
    assert shown.count("mean ± 95 % interval") == 1
    assert "5 tasks, 2 of them reported" in shown
    ranks = shown[shown.index("\nranks") :]
    assert _cells(ranks, "er") == ["er", "1", "0.812", "2", "0.812", "1", "0.812"]
    assert _cells(ranks, "ewc") == ["ewc", "3", "0.444", "1", "0.894", "3", "0.444"]
    assert _cells(ranks, "joint") == ["joint", "0.950", "0.950", "0.950"]
    assert _cells(ranks, "gem") == ["gem", "failed", "failed", "failed"]
    heads = ranks[: ranks.index("─")]
    assert "chosen on test" in heads
    assert "first-k ewc overtakes er*, agem*" in _flat(ranks)
    assert "oracle ranks as end-of-training" in _flat(ranks)


def test_many_boards_go_on_below_one_another(made: Any) -> None:
    boards = [made.board(_rows(made), name=f"permuted/seen-tasks-{i}") for i in range(9)]
    ranks = _shown(made.final(*boards), 80).split("\nranks")[1]
    assert sum("method" in line for line in ranks.splitlines()) == 3
    assert all(f"seen-tasks-{i}" in ranks for i in range(9))


def test_ranks_are_compared_within_a_benchmark(made: Any) -> None:
    first, turned, _ = _boards(made)
    boards = [
        {**first, "name": "split", "arena": "split"},
        {**turned, "name": "permuted", "arena": "permuted"},
    ]
    assert "overtakes" not in _shown(made.final(*boards), 80)


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys, clray.report.leaderboard, clray.report.trial, clray.report.exports\n"
        "heavy = {'torch', 'ray', 'optuna', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
