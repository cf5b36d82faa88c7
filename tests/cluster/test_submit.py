"""A job on a cluster that asks for a token: sent, followed, found again, stopped, gone on with,
and brought home."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.cluster.head import Done, Head, clean_environment

JOB = """\
name: small
benchmark: split-digits
model: {name: mlp, hidden: [32]}
protocol: {epochs: 30, batch_size: 16, memory: 50, validation_fraction: 0.2}
methods: [finetune, er]
search: {trials: 6, startup: 3}
final: {seeds: 2}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a job, as on a laptop."""
    folder = tmp_path / "laptop"
    folder.mkdir()
    (folder / "small.yaml").write_text(JOB)
    return folder


def _wait(head: Head, here: Path, pattern: str, *command: str) -> str:
    """What a command prints once it matches."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        done = head.run(*command, cwd=here)
        if re.search(pattern, done.out):
            return done.out
        time.sleep(1)
    raise AssertionError(f"{pattern} is not in {done}")


@pytest.mark.slow
def test_the_token_is_asked_for(head: Head, here: Path) -> None:
    nobody = here.parent / "nobody"
    nobody.mkdir()
    stranger = Head(head.address, nobody)
    command = ("submit", "small.yaml", "--address", head.address, "--results", str(here / "there"))
    for done, given in (
        (stranger.run(*command, cwd=here), "no token"),
        (stranger.run(*command, cwd=here, RAY_AUTH_TOKEN="wrong"), "a token that the cluster"),
    ):
        assert done.code == 2
        assert given in done.err
        assert "~/.ray/auth_token" in done.err
        assert len(done.err.splitlines()) == 1
    assert not (here / "there").exists()
    assert not (here / "results").exists()


@pytest.mark.slow
def test_from_here_to_there_and_back(head: Head, here: Path) -> None:
    there = here.parent / "shared"
    submit = ("submit", "small.yaml", "--address", head.address, "--results", str(there))

    # Sent, followed, left by Ctrl-C: it goes on, and is found by its name.
    following = head.start(*submit, cwd=here)
    assert following.stdout is not None
    lines = iter(following.stdout.readline, "")
    assert any(re.search(r"finetune search 1/6: #0 completed", line) for line in lines)
    following.send_signal(signal.SIGINT)
    _, error = following.communicate(timeout=60)
    assert following.returncode == 130
    assert "the job goes on: clray logs small --follow" in error
    stopped = head.run("stop", "small", cwd=here)
    assert (stopped.code, stopped.out) == (
        0,
        "small stopped; clray submit goes on from what is stored\n",
    )
    finished = {path.parent.name: path.stat() for path in there.glob("trials/*/result.json")}
    assert finished
    assert not (there / "jobs/small/final.json").exists()

    # Sent again, it goes on where it stopped.
    ended = head.run(*submit, cwd=here)
    assert ended.code == 0, ended
    assert re.search(r"#0 completed, .*\(stored\)", ended.out)
    assert "On test" in ended.out
    after = {path.parent.name: path.stat() for path in there.glob("trials/*/result.json")}
    assert all(after[key].st_mtime_ns == stat.st_mtime_ns for key, stat in finished.items())
    home = here / "results/jobs/small"
    assert (home / "report.html").exists()
    assert not list(here.glob("results/trials/*/checkpoint"))

    # What came home is what a sweep here gives, and it is known here.
    local = _sweep(here, "elsewhere")
    assert local.code == 0
    same = here / "elsewhere/jobs/small/leaderboard.json"
    assert (home / "leaderboard.json").read_bytes() == same.read_bytes()
    again = _sweep(here, "results")
    assert (again.code, "starting" in again.out) == (0, False)

    fetched = head.run("fetch", "small", "--to", "again", cwd=here)
    assert fetched.code == 0, fetched
    brought = here / "again/jobs/small/leaderboard.json"
    assert brought.read_bytes() == same.read_bytes()
    for line in (ended.out, ended.err):
        assert "0123456789abcdef" not in line  # the token


@pytest.mark.slow
def test_found_again_by_name(head: Head, here: Path) -> None:
    there = here.parent / "shared"
    (here / "endless.yaml").write_text(
        JOB.replace("name: small", "name: endless").replace("epochs: 30", "epochs: 3000")
    )
    submit = ("submit", "endless.yaml", "--address", head.address, "--results", str(there))
    dry = head.run(*submit, "--dry-run", cwd=here)
    assert dry.code == 0
    assert "up to 2 trials at once" in dry.out
    assert not there.exists()

    sent = head.run(*submit, "--detach", cwd=here)
    assert (sent.code, "clray fetch endless" in sent.out) == (0, True)
    told = _wait(head, here, "first slot ready", "logs", "endless")
    assert "clray-event" not in told
    assert re.search(r"endless +running", head.run("status", cwd=here).out)
    changed = head.run(*submit, "search.trials=5", cwd=here)
    assert (changed.code, "another version of endless" in changed.err) == (2, True)
    assert head.run("stop", "endless", cwd=here).code == 0
    assert re.search(r"endless +stopped", head.run("status", "endless", cwd=here).out)


@pytest.mark.slow
def test_what_fails_there_fails_here(head: Head, here: Path) -> None:
    """A job whose data only the cluster could have: its message and its exit code come home."""
    (here / "small.yaml").write_text(
        JOB.replace("benchmark: split-digits", "benchmark: {name: stored, stream: /nowhere}")
    )
    done = head.run(
        *("submit", "small.yaml", "--address", head.address),
        *("--results", str(here.parent / "shared")),
        cwd=here,
    )
    assert done.code == 2, done
    assert "not planned here, but on the cluster" in done.err
    assert "/nowhere" in done.out


def _sweep(here: Path, results: str) -> Done:
    """The same job on this machine."""
    home = here.parent / "home"
    home.mkdir(exist_ok=True)
    alone = Head("", home)
    assert "RAY_ADDRESS" not in clean_environment(home)
    return alone.run(
        "sweep", "small.yaml", "--results", results, cwd=here, RAY_AUTH_MODE="disabled"
    )
