"""Regions: the picture is what the records say, and the page keeps its squares square."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from PIL import Image

from clray.report.content import Content
from clray.report.figures.regions import COLORS, COLUMNS, regions
from clray.report.reading import Job, read
from clray.report.rendering import rendered
from clray.report.view import View, views

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def tell(folder: Path, label: str, **others: Any) -> None:
    """Add regions to the records of a method's first final run: the left half is 2t, the right half
    2t + 1 after task t, but for the topmost row, which is all 0; two points, one out of sight."""
    board = json.loads((folder / "final.json").read_text())["boards"][0]
    key = next(row["test_keys"][0] for row in board["rows"] if row["label"] == label)
    file = folder.parent.parent / "trials" / key / "records.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        t = record["task"] % 5
        record["regions"] = {
            "square": [-1.0, 1.0],
            "grid": ["0000", *[f"{2 * t}{2 * t}{2 * t + 1}{2 * t + 1}"] * 3],
            "points": [[0.5, -1.0 + t / 10, 2 * t], [0.0, 1.1, 2 * t + 1]],
            **others,
        }
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def view_of(folder: Path) -> View:
    job = read(str(folder))
    assert isinstance(job, Job)
    return views(job)[0]


def test_the_picture_is_what_was_recorded(stored: Any) -> None:
    folder = stored.job(methods=("er", "ewc"), trials=2, tasks=3, seeds=2)
    assert regions(view_of(folder)) == []
    tell(folder, "er")
    view = view_of(folder)
    [figure] = regions(view)
    assert [panel.title for panel in figure.panels] == ["er"]
    assert vl_convert.vegalite_to_vega(figure.picture())["marks"]

    squares, points, _ = (source.columns for source in figure.panels[0].sources)
    assert squares["left"] == [0, 1.06, 2.12]
    picture = Image.open(io.BytesIO(base64.b64decode(squares["image"][2].partition(",")[2])))
    drawn = picture.convert("RGBA")
    corners = [drawn.getpixel(at) for at in ((0, 0), (0, 1), (3, 3))]
    expected = [tuple(bytes.fromhex(COLORS[cls][1:])) for cls in (0, 4, 5)]
    assert [pixel[:3] for pixel in corners if isinstance(pixel, tuple)] == expected
    assert all(isinstance(pixel, tuple) and 0 < pixel[3] < 255 for pixel in corners)

    # those in sight of the tasks so far, in each square; the last one is new
    assert points["class"] == [0, 0, 2, 0, 2, 4]
    assert points["new"] == [True, False, True, False, False, True]
    assert points["x"] == pytest.approx([0.75, 1.81, 1.81, 2.87, 2.87, 2.87])
    assert points["y"] == pytest.approx([0, 0, 0.05, 0, 0.05, 0.1])

    run = view.runs["er"][0]
    for t, row in enumerate(figure.table.rows):
        known = [value for value in run.R[t] if value is not None]
        assert row[:4] == ["er", t + 1, run.names[t], pytest.approx(sum(known) / len(known))]
    assert figure.table.heads[4:] == [f"class {cls}" for cls in range(6)]
    assert figure.table.rows[2][4:] == [0.25, 0, 0, 0, 0.375, 0.375]


def test_a_point_that_is_told_again_stays_with_its_first_task(stored: Any) -> None:
    folder = stored.job(methods=("er",), trials=2, tasks=2, seeds=1)
    tell(folder, "joint", points=[[0.0, 0.0, 1]])
    [figure] = regions(view_of(folder))
    points = figure.panels[0].sources[1].columns
    assert points["new"] == [True, False]
    assert points["task"] == ["0-1", "0-1"]


def test_of_many_tasks_some_are_shown(stored: Any) -> None:
    folder = stored.job(methods=("er",), trials=2, tasks=11, seeds=1)
    tell(folder, "er")
    [figure] = regions(view_of(folder))
    told = figure.panels[0].sources[0].columns["after"]
    assert told == [f"after task {t}" for t in (1, 3, 5, 7, 9, 11)]
    assert len(told) == COLUMNS
    assert len(figure.table.rows) == 11


@pytest.mark.parametrize("grid", [[], ["01", "0"], ["0!"]])
def test_damaged_regions_are_passed_over(stored: Any, grid: list[str]) -> None:
    folder = stored.job(methods=("er",), trials=2, tasks=2, seeds=2)
    tell(folder, "er", grid=grid)
    view = view_of(folder)
    assert regions(view) == []
    assert len(view.runs["er"]) == 1


def test_a_browser_keeps_squares_square(stored: Any, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    folder = stored.job(methods=("er",), trials=2, tasks=4, seeds=1)
    tell(folder, "er")
    content = Content()
    section = content.section("a", "a", regions(view_of(folder)))
    shown: dict[str, Any] = {
        "title": "t",
        "state": None,
        "lead": "",
        "warnings": [],
        "cards": [],
        "links": [],
    }
    page = {**shown, "sections": [section], "boards": [], "provenance": []}
    file = tmp_path / "page.html"
    file.write_bytes(rendered(content, [], page).html)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000"]
    options += [f"--user-data-dir={tmp_path / 'browser'}", "--window-size=1200,900"]
    command = [CHROMIUM, *options, "--dump-dom", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=100).stdout
    assert 'data-drawn="yes"' in dom
    images = re.findall(r'<image [^>]*?width="([\d.]+)" height="([\d.]+)"', dom)
    assert len(images) == 4
    for wide, high in images:
        assert float(wide) == pytest.approx(float(high), abs=1)
