"""What the report shows, as tables for other programs: Arrow in memory, CSV and Parquet on disk.

Each table is flat: a row of a board goes by ``board`` and ``name``, a final run by its ``order``
and the number of its ``seed`` as well, a task by its position in the run's stream, from 0. Where
a board's numbers are too good to compare with, ``stamp`` says so in every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from clray.report.naming import looks_at_test, selections_of
from clray.report.ranking import bounds, ranked
from clray.report.reading import Job
from clray.report.significance import compare, letters
from clray.report.stored import Board, Record, Row, Trial
from clray.store import Folder

Cells = dict[str, Any]


def tables(job: Job) -> dict[str, pa.Table]:
    """The tables of a job, by name; those that would have no row are left out.

    ``leaderboard`` (a row of each board), ``runs`` (each final run with its measures),
    ``trials`` (of the search), ``matrix`` (accuracies), ``tasks`` (accuracies, forgetting and costs
    of each task of each run), ``traces`` (of continual evaluation: how many examples of a task were
    answered rightly after an update of another), ``significance`` (each pair of rows in each
    measure), ``budget``, ``trajectories`` (what was chosen for each task) and ``importances``.

    Raises:
        BadData: the records of a final run are damaged.
    """
    boards = job.final.boards if job.final else []
    rows = [(board, row) for board in boards for row in board.rows]
    stamps = _stamps(job)
    content: dict[str, list[Cells]] = {
        "leaderboard": [cells for board in boards for cells in _standing(board)],
        "runs": [cells for board, row in rows for cells in _runs(board, row, job.runs)],
        "trials": [_trial(line.model_dump(), stamps) for line in job.trials],
        "matrix": [cells for board, row in rows for cells in _matrix(board, row, job.runs)],
        "tasks": [cells for board, row in rows for cells in _tasks(board, row, job.runs)],
        "traces": [cells for board, row in rows for cells in _traces(board, row, job.runs)],
        "significance": [cells for board in boards for cells in _comparisons(board)],
        "budget": [
            {**_who(board, row), **row.budget.model_dump(), "test_train_seconds": row.train_seconds}
            for board, row in rows
        ],
        "trajectories": [
            {**_who(board, row), "task": task, **values}
            for board, row in rows
            for task, values in enumerate(row.trajectory or [])
        ],
        "importances": [
            {**_who(board, row), "objective": objective, "knob": knob, "share": share}
            for board, row in rows
            for objective, shares in row.importances.items()
            for knob, share in shares.items()
        ],
    }
    return {name: _table(cells) for name, cells in content.items() if cells}


def write_tables(job: Job, folder: Folder) -> list[str]:
    """Write the tables of a job as CSV and as Parquet under ``tables/``; the paths in ``folder``.

    Raises:
        BadData: the records of a final run are damaged.
    """
    written = []
    for name, table in tables(job).items():
        for suffix, write in (("csv", csv.write_csv), ("parquet", parquet.write_table)):
            sink = pa.BufferOutputStream()
            write(table, sink)
            folder.write(f"tables/{name}.{suffix}", memoryview(sink.getvalue()))
            written.append(f"tables/{name}.{suffix}")
    return written


def task_forgetting(records: Sequence[Record]) -> list[float | None]:
    """How far each task has fallen below its best before the last task, as
    ``clray.metrics.forgetting`` has it; None for the last one, and where it was not measured."""
    if not records:
        return []
    matrix = [record.accuracy or [] for record in records]
    found: list[float | None] = []
    for i in range(len(matrix) - 1):
        column = [row[i] if i < len(row) else None for row in matrix]
        before = [value for value in column[:-1] if value is not None]
        now = column[-1]
        whole = now is not None and column[i] is not None
        found.append(max(before) - now if whole and now is not None else None)
    return [*found, None]


def _who(board: Board, row: Row) -> Cells:
    return {"board": board.name, "stamp": board.stamp, "name": row.name}


def _stamps(job: Job) -> dict[str, str | None]:
    if job.final is not None:
        return {board.name: board.stamp for board in job.final.boards}
    selections = selections_of(job.spec) if job.spec else {}
    return {
        name: "chosen on test" if looks_at_test(selection) else None
        for name, selection in selections.items()
    }


def _standing(board: Board) -> Iterator[Cells]:
    ranks = {row.name: rank for rank, row in enumerate(ranked(board), start=1)}
    standing_apart = {row.name for row in bounds(board)}
    marks = letters(board, board.objective.metric)
    for row in board.rows:
        kind = "bound" if row.name in standing_apart else "failed"
        average, largest = row.order_disparity or (None, None)
        transfer = row.transfer
        yield {
            **_who(board, row),
            "label": row.label,
            "method": row.method,
            "kind": "ranked" if row.name in ranks else kind,
            "rank": ranks.get(row.name),
            "letters": marks.get(row.name),
            "chosen_on": board.chosen_on,
            "leak": board.leak,
            **{
                f"{metric}{part}": value
                for metric, found in row.test.items()
                for part, value in (("", found.mean), ("_interval", found.interval))
            },
            "average_order_disparity": average,
            "maximum_order_disparity": largest,
            **{f"validation_{metric}": value for metric, value in row.validation.items()},
            "parameters_kept": row.parameters,
            "examples_kept": row.examples,
            "bytes_kept": row.bytes,
            "train_seconds": row.train_seconds,
            "rank_correlation": transfer.rank_correlation if transfer else None,
            "regret": transfer.regret if transfer else None,
            **row.values,
            "number": row.number,
            "key": row.key,
            "error": row.error,
        }


def _each_run(board: Board, row: Row) -> Iterator[tuple[int, str, Cells]]:
    places = zip(row.test_keys, row.places, strict=True)
    for index, (key, (order, seed)) in enumerate(places):
        yield index, key, {**_who(board, row), "order": order, "seed": seed, "key": key}


def _runs(board: Board, row: Row, runs: Mapping[str, Trial]) -> Iterator[Cells]:
    for index, key, cells in _each_run(board, row):
        run = runs.get(key)
        yield {
            **cells,
            "state": run.state if run else None,
            **{metric: found.values[index] for metric, found in row.test.items()},
            "train_seconds": run.seconds.get("train") if run else None,
            "eval_seconds": run.seconds.get("eval") if run else None,
            **_trace_seconds(run),
        }


def _trace_seconds(run: Trial | None) -> Cells:
    """Only where there was continual evaluation."""
    seconds = run.seconds if run is not None else {}
    return {"trace_seconds": seconds["trace"]} if "trace" in seconds else {}


def _trial(line: Cells, stamps: Mapping[str, str | None]) -> Cells:
    measures, values = line.pop("measures"), line.pop("values")
    line["keys"] = " ".join(line["keys"])
    line["trace"] = json.dumps(line["trace"])
    board = line.pop("board")
    return {"board": board, "stamp": stamps.get(board), **line, **measures, **values}


def _matrix(board: Board, row: Row, runs: Mapping[str, Trial]) -> Iterator[Cells]:
    for _, key, cells in _each_run(board, row):
        records = runs[key].records if key in runs else []
        names = {record.task: record.name for record in records}
        for record in records:
            for task, accuracy in enumerate(record.accuracy or []):
                if accuracy is not None:
                    yield {
                        **cells,
                        "after_task": record.task,
                        "task": task,
                        "task_name": names.get(task),
                        "accuracy": accuracy,
                    }


def _tasks(board: Board, row: Row, runs: Mapping[str, Trial]) -> Iterator[Cells]:
    for _, key, cells in _each_run(board, row):
        if key not in runs:
            continue
        records, seconds = runs[key].records, runs[key].seconds.get("tasks") or []
        forgotten = task_forgetting(records)
        last = (records[-1].accuracy or []) if records else []
        for i, record in enumerate(records):
            own = record.accuracy or []
            yield {
                **cells,
                "task": record.task,
                "task_name": record.name,
                "accuracy_when_learned": own[i] if i < len(own) else None,
                "accuracy_at_the_end": last[i] if i < len(last) else None,
                "forgetting": forgotten[i],
                **{what: record.footprint.get(what) for what in ("parameters", "examples")},
                "bytes": record.footprint.get("bytes"),
                "steps": record.steps,
                "examples_seen": record.examples_seen,
                "train_seconds": seconds[i] if i < len(seconds) else None,
            }


def _traces(board: Board, row: Row, runs: Mapping[str, Trial]) -> Iterator[Cells]:
    for _, key, cells in _each_run(board, row):
        for record in runs[key].records if key in runs else ():
            if record.trace is None:
                continue
            for update, right in zip(record.trace.updates, record.trace.right, strict=True):
                for task, count in enumerate(right):
                    yield {
                        **cells,
                        "task_learned": record.task,
                        "update": update,
                        "task_graded": task,
                        "examples": record.trace.examples[task],
                        "right": count,
                        "right_before": [*record.trace.before, None][task],
                    }


def _comparisons(board: Board) -> Iterator[Cells]:
    metrics = dict.fromkeys(metric for row in ranked(board) for metric in row.test)
    for metric in metrics:
        for one in compare(board, metric):
            yield {"board": board.name, "stamp": board.stamp, "metric": metric, **vars(one)}


def _table(rows: Sequence[Cells]) -> pa.Table:
    columns = dict.fromkeys(column for row in rows for column in row)
    return pa.table({column: _array([row.get(column) for row in rows]) for column in columns})


def _array(values: Sequence[Any]) -> pa.Array:
    """A column; values of several types, as a choice may have them, become text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or (len(kinds) == 1 and kinds <= {bool, str}):
        return pa.array(values)
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values])
