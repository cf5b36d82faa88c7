"""Where results lie: the option, the job, the environment, and no passwords in any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Clray
from tests.cli.refusing import JOB, assert_job_refused, assert_refused, contents, write

SECRET = "hid/den+secret"


def test_a_dry_run_says_where(here: Path, clray: Clray, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*arguments: str) -> str:
        code, out, err = clray("sweep", "job.yaml", "--dry-run", *arguments)
        assert code == 0, err
        return next(line for line in out.splitlines() if line.startswith("Results would lie in "))

    write(here / "job.yaml", JOB)
    assert said().endswith(f"{here}/results/jobs/a.")
    monkeypatch.setenv("CLRAY_RESULTS", "there")
    assert said().endswith(f"{here}/there/jobs/a.")
    write(here / "job.yaml", {**JOB, "results": "own"})
    assert said().endswith(f"{here}/own/jobs/a.")
    assert said("results=elsewhere").endswith(f"{here}/elsewhere/jobs/a.")
    assert said("--results", "last", "results=elsewhere").endswith(f"{here}/last/jobs/a.")
    assert list(contents(here)) == ["job.yaml"]


def test_a_report_reads_there(here: Path, clray: Clray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLRAY_RESULTS", "there")
    assert_refused(clray("report"), "there: got 'no such folder'")


@pytest.mark.parametrize(
    "address",
    [
        f"s3://KEY:{SECRET}@bucket/x",
        f"s3://bucket/x?access_key=KEY&secret_key={SECRET}",
        f"s3://bucket/x?endpoint_override=http://KEY:{SECRET}@host",
    ],
)
def test_passwords_are_refused_and_not_repeated(
    address: str, here: Path, clray: Clray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_job_refused(clray, here, {"results": address}, "job.yaml: results: got 's3://")
    write(here / "job.yaml", JOB)
    before = contents(here)
    monkeypatch.setenv("CLRAY_RESULTS", address)
    said = [clray("sweep", "job.yaml"), clray("run", "er", "split-digits"), clray("report")]
    monkeypatch.delenv("CLRAY_RESULTS")
    said += [
        clray("sweep", "job.yaml", "--results", address),
        clray("sweep", "job.yaml", f"results={address}"),
        clray("run", "er", "split-digits", "--here", "--results", address),
        clray("report", address),
        clray("report", "--to", address, "results"),
    ]
    for one in said[:-1]:
        assert_refused(one, "credentials: they come from the environment")
    for _, out, err in said:
        assert "den+secret" not in out + err
        assert "KEY" not in out + err
    assert contents(here) == before


def test_a_folder_that_cannot_be_written_to(here: Path, clray: Clray) -> None:
    write(here / "job.yaml", JOB)
    assert_refused(clray("sweep", "job.yaml", "--results", "/proc/1"), "results: got '/proc/1")
