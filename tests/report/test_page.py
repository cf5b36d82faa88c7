"""The page: drawn by a browser without an error, self-contained, small, and where it was told."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clray.__main__ import invoke
from clray.report.page import job_page, jobs_page
from clray.report.reading import Job, read
from clray.report.rendering import Page

MOST = 5_000_000
"""Bytes of a page with 1,000 trials."""
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PLOT = re.compile(r'<div class="plot[^"]*"([^>]*)>')


def _job(path: Path) -> Job:
    found = read(str(path))
    assert isinstance(found, Job)
    return found


def _drawn(page: Page, folder: Path) -> tuple[str, str]:
    """The page as a browser has it in the end, and what it said on its console."""
    if CHROMIUM is None:
        pytest.skip("no chromium on PATH")
    file = folder / "page.html"
    file.write_bytes(page.html)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000"]
    options += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'browser'}"]
    ended = subprocess.run(
        [CHROMIUM, *options, "--window-size=1280,2000", "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)
    return ended.stdout, said


def _assert_all_drawn(dom: str, number: int) -> None:
    assert len(PLOT.findall(dom)) == number > 0
    pieces = PLOT.split(dom)[1:]
    for attributes, after in zip(pieces[::2], pieces[1::2], strict=True):
        assert 'data-drawn="yes"' in attributes, attributes[:200]
        marks = re.findall(r'class="mark-(?:symbol|rect|line|rule|text|area)[^"]*', after)
        assert marks or "<canvas" in after, attributes[:200]


def test_a_browser_draws_every_figure(stored: Any, tmp_path: Path) -> None:
    folder = stored.job(trials=14, seeds=2, objectives=("average_accuracy", "forgetting"))
    page = job_page(_job(folder))
    dom, said = _drawn(page, tmp_path)
    assert said == ""
    panels = sum(len(spec["concat"]) for spec in page.pictures.values())
    _assert_all_drawn(dom, panels)
    figures = dom.count("<figure ")
    assert figures == len(page.pictures) >= 14
    assert dom.count("<details") >= figures
    assert len(re.findall(r"<table>.*?<td", dom, re.DOTALL)) >= figures
    assert dom.count("aria-label=") > panels


def test_a_browser_draws_jobs_side_by_side(stored: Any, tmp_path: Path) -> None:
    paths = [
        stored.job("a", trials=6, seeds=2, selections=("end-of-training", "oracle")),
        stored.job("b", methods=("er", "lwf"), trials=6, seeds=2),
        stored.job("c", trials=6, finished=False),
    ]
    page = jobs_page([_job(path) for path in paths])
    dom, said = _drawn(page, tmp_path)
    assert said == ""
    _assert_all_drawn(dom, sum(len(spec["concat"]) for spec in page.pictures.values()))
    assert "a: oracle †" in dom
    assert "†: chosen on test" in dom


def test_a_thousand_trials_stay_small_and_load_nothing(stored: Any) -> None:
    methods = ("er", "ewc", "lwf", "agem", "finetune")
    page = job_page(_job(stored.job(methods=methods, trials=200, tasks=10, seeds=5)))
    assert len(page.html) < MOST
    text = page.html.decode()
    head, _, _ = text.partition('id="clray-page"')
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?(?:https?:)?//""", head)
    assert not re.findall(r"@import|url\(", head)
    assert text.count("<script") == 3
    assert "<script src" not in text
    assert "prefers-color-scheme: dark" in head
    assert '[data-theme="dark"]' in head
    assert 'class="theme"' in head
    assert "1001" in head


def test_names_cannot_break_out(stored: Any) -> None:
    folder = stored.job(methods=("er", "ewc"), trials=5, seeds=2)
    final = folder / "final.json"
    final.write_text(final.read_text().replace('"end-of-training"', '"</script><b>x"'))
    assert b"<b>x" not in job_page(_job(folder)).html


def test_a_running_job_has_a_page(stored: Any) -> None:
    folder = stored.job(trials=6, finished=False)
    text = job_page(_job(folder)).html.decode()
    assert "running" in text
    assert "The search, trial by trial" in text
    assert "6 of 6" in text
    assert "Accuracy matrix" not in text
    (folder / "trials.jsonl").unlink()
    (folder / "provenance.json").unlink()
    assert "clray sweep" in job_page(_job(folder)).html.decode()


def test_damaged_and_missing_runs_are_passed_over(stored: Any) -> None:
    folder = stored.job(methods=("er",), trials=5, seeds=3)
    runs = sorted((stored.results / "trials").iterdir())
    shutil.rmtree(runs[0])
    (runs[1] / "records.jsonl").write_text('{"task": 0, "na')
    assert "Accuracy matrix" in job_page(_job(folder)).html.decode()
    shutil.rmtree(stored.results / "trials")
    text = job_page(_job(folder)).html.decode()
    assert "Accuracy matrix" not in text
    assert "Leaderboard" in text


def test_where_the_command_writes(
    stored: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stored.job("one", methods=("er",), trials=5, seeds=2)
    two = stored.job("two", methods=("er",), trials=5, seeds=2)
    monkeypatch.chdir(stored.results.parent)

    assert invoke(["report", str(one), "--no-page"]) == 0
    assert not (one / "report.html").exists()

    assert invoke(["report", str(one)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (one / "report.html").stat().st_size > 500_000
    assert (one / "figures" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")
    assert (one / "tables" / "trials.csv").exists()

    assert invoke(["report", str(one), str(two)]) == 0
    assert "two" in (stored.results.parent / "report.html").read_text()
    assert not (two / "report.html").exists()

    assert invoke(["report", str(stored.results), "--to", "elsewhere"]) == 0
    assert (stored.results.parent / "elsewhere" / "two" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (["{job}", "--to", "/proc/nowhere"], "a folder that can be written to"),
        (["{job}", "{job}", "--to", "/proc/nowhere"], "--no-page only prints"),
        (["{job}", "--to", "x", "--no-page"], "either --to or --no-page"),
        (["{trial}", "--to", "x"], "a trial is only printed"),
        (["{job}", "{trial}"], "side by side"),
        (["{job}", "nowhere"], "no such folder"),
    ],
)
def test_refused(
    arguments: list[str], piece: str, stored: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    job = stored.job(methods=("er",), trials=1, seeds=1)
    trial = next((stored.results / "trials").iterdir())
    given = [argument.format(job=job, trial=trial) for argument in arguments]
    assert invoke(["report", *given]) == 2
    assert piece in " ".join(capsys.readouterr().err.split())


def test_printing_does_not_import_what_draws(stored: Any) -> None:
    folder = stored.job(methods=("er",), trials=1, seeds=1)
    code = (
        "import sys; from clray.__main__ import invoke\n"
        f"assert invoke(['report', {str(folder)!r}, '--no-page']) == 0\n"
        "heavy = {'torch', 'ray', 'optuna', 'altair', 'vl_convert'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
