"""A job whose storage fails: it ends with one error that says so, and goes on when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from clray import outages, protocols
from clray.errors import BadSpec, StorageFailed
from clray.events import Event, TrialEnded, ignore
from clray.store import job_folder
from tests.object_store import EXPIRED, GONE, REFUSED, ObjectStore, object_store
from tests.protocols.conftest import RunJob, job_of

pytest.importorskip("moto", reason="moto is not installed")

RESULTS = "s3://bucket/results"
NAMES = ("leaderboard.json", "trials.jsonl")


@pytest.fixture
def s3(here: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as found:
        found.make_bucket("bucket")
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(outages, "PATIENCE", 0.0)
        yield found


def test_a_job_ends_at_once_and_goes_on(
    s3: ObjectStore, run_job: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = protocols.plan(job_of(selection=["end-of-training", "chf"]))
    faults = [
        (REFUSED, "/records.jsonl", 1),  # of a trial
        (EXPIRED, "PUT /bucket/results/jobs/small/trials.jsonl", 2),  # of the job
        (GONE, "PUT /bucket", 4),
        (REFUSED, "GET /bucket/results/trials", 6),
    ]
    monkeypatch.setattr(protocols.session, "SECONDS_BETWEEN_WRITES", 0.0)
    for fault, path, ended in faults:
        events: list[Event] = []

        def watch(event: Event, told: list[Event] = events, at: int = ended) -> None:
            told.append(event)
            trials = sum(isinstance(one, TrialEnded) for one in told)
            if trials == at:
                s3.fail(fault, path)  # noqa: B023

        with pytest.raises(StorageFailed, match=r"s3://bucket/results/.*: cannot be"):
            protocols.run_job(job, RESULTS, watch)
        s3.recover()
        states = [one.state for one in events if isinstance(one, TrialEnded)]
        assert set(states) == {"completed"}
    protocols.run_job(job, RESULTS, ignore)
    run_job(selection=["end-of-training", "chf"])
    far, near = job_folder(RESULTS, "small"), job_folder(str(tmp_path), "small")
    assert [far.read(name) for name in NAMES] == [near.read(name) for name in NAMES]
    assert far.files("running") in ({}, {"running/": 0})


def test_a_bucket_that_cannot_be_written_to_is_refused_first(s3: ObjectStore) -> None:
    s3.fail(REFUSED, "PUT /bucket")
    with pytest.raises(BadSpec, match=r"results: got .*access was refused.*; accepted: a folder"):
        protocols.run_job(job_of(), RESULTS, ignore)
    s3.recover()
    assert s3.contents() == {}
