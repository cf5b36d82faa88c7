"""The leaderboard of a job, for a terminal; of a job that is not finished, how far it is."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from clray.report.board_notes import notes
from clray.report.board_summary import summary
from clray.report.board_table import ALARM, board_table
from clray.report.board_traces import traces_table
from clray.report.job_progress import progress
from clray.report.naming import benchmark_title
from clray.report.ranking import bounds, failures, ranked
from clray.report.reading import Job
from clray.report.stored import Board, Final
from clray.report.tables import indented

__all__ = ["bounds", "failures", "job_page", "leaderboard", "ranked"]


def leaderboard(final: Final, width: int) -> RenderableType:
    """Every board of a job, and with several of them their ranks side by side, for a terminal
    ``width`` columns wide."""
    if len(final.boards) == 1:
        board = final.boards[0]
        return Group(_title(final.job, board), Text(), *_section(board, notes(board), width))
    said = [notes(board) for board in final.boards]
    shared = [line for line in said[0] if all(line in lines for lines in said)] if said else []
    parts: list[RenderableType] = [Text(final.job, style="bold"), Text()]
    for board, lines in zip(final.boards, said, strict=True):
        own = [line for line in lines if line not in shared]
        parts += [_title(board.name, board), Text(), *_section(board, own, width), Text()]
    if final.boards:
        parts += [summary(final.boards, width), Text()]
    return Group(*parts, *(indented(line) for line in shared))


def job_page(job: Job, width: int) -> RenderableType:
    """A job's leaderboard, or how far it is while it is not finished."""
    if job.final is not None:
        return leaderboard(job.final, width)
    return progress(job)


def _section(board: Board, lines: Sequence[Text], width: int) -> list[RenderableType]:
    below = traces_table(board, width)
    return [
        board_table(board, width),
        Text(),
        *(indented(line) for line in lines),
        *([Text(), *below] if below else []),
    ]


def _title(name: str, board: Board) -> Text:
    title = Text.assemble((name, "bold"), f"  {benchmark_title(board.benchmark)}")
    shown = [str(board.benchmark["scenario"])] if "scenario" in board.benchmark else []
    shown.append(f"{board.num_tasks} task{'s' * (board.num_tasks != 1)}")
    if board.reported and len(board.reported) != board.num_tasks:
        shown.append(f"{len(board.reported)} of them reported")
    if board.model.get("name"):
        shown.append(str(board.model["name"]))
    title.append(", " + ", ".join(shown), style="dim")
    if board.stamp:
        title.append(f"  {board.stamp}", style=ALARM)
    return title
