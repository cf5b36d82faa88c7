"""Loggers that are refused, that fail, and that are slow."""

from __future__ import annotations

import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from clray.errors import BadInput, BadSpec, UnknownName
from clray.events import Warned
from clray.loggers import opening, tensorboard
from clray.loggers.logger import Entry
from clray.loggers.opening import check_loggers, names, open_loggers
from clray.store import Folder


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("loggers", "error", "piece"),
    [
        (["tensorbord"], UnknownName, "Did you mean 'tensorboard'?"),
        (["logger"], UnknownName, "accepted: mlflow, tensorboard, wandb"),
        ([{"name": "tensorboard", "folder": "x"}], BadSpec, "got 'folder'; accepted: nothing"),
        (["tensorboard", "tensorboard"], BadSpec, "each logger once"),
        ([{"name": "mlflow", "url": "http://x"}], BadSpec, "Did you mean 'uri'?"),
        ([{"name": "mlflow", "uri": "./mlruns"}], BadSpec, "a database such as sqlite:///"),
        ([{"name": "mlflow", "uri": "http://me:secret@h"}], BadSpec, "MLFLOW_TRACKING_PASSWORD"),
        ([{"name": "mlflow", "uri": "http://127.0.0.1:{port}"}], BadSpec, "a server that answers"),
        ([{"name": "mlflow", "uri": "sqlite:////dev/null/a.db"}], BadSpec, "takes runs"),
    ],
)
def test_refused_before_anything_starts(
    loggers: Any, error: type[BadInput], piece: str, folder: Folder, make_job: Any
) -> None:
    if "mlflow" in str(loggers):
        pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    if isinstance(loggers[0], dict) and "uri" in loggers[0]:
        uri = loggers[0]["uri"].replace("{port}", str(_closed_port()))
        loggers = [{**loggers[0], "uri": uri}]
    with pytest.raises(error) as caught, open_loggers(make_job(loggers), folder):
        pytest.fail("it was opened")
    assert piece in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not Path(folder.uri).exists()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_results_that_are_no_local_folder(name: str, make_job: Any) -> None:
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    pytest.importorskip(package, reason="its extra is not installed")
    with pytest.raises(BadSpec, match="local folder"):
        check_loggers(make_job([name]).loggers, Folder("s3://bucket/results?region=us-east-1"))


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_package_that_is_missing(
    name: str, folder: Folder, make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = {"tensorboard": "tensorboardX"}.get(name, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadSpec, match=rf"pip install 'clray\[{name}\]'"):
        check_loggers(make_job([name]).loggers, folder)


def test_names() -> None:
    assert names() == ["mlflow", "tensorboard", "wandb"]


def test_no_loggers_is_the_watch_itself(folder: Folder, make_job: Any) -> None:
    with open_loggers(make_job([]), folder, print) as watch:
        assert watch is print


def test_one_that_fails_is_told_once_and_ends_nothing(
    log: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, entry: Entry) -> None:
        raise OSError("disk is full\nand more")

    monkeypatch.setattr(tensorboard.TensorBoard, "log", fail)
    seen = log(["tensorboard"], told.whole)
    text = "logger tensorboard failed, and is told nothing more: OSError: disk is full"
    assert [event for event in seen if isinstance(event, Warned)] == [Warned(text)]
    assert [event for event in seen if not isinstance(event, Warned)] == told.whole


def test_one_that_hangs_delays_nothing(
    log: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = threading.Event()
    monkeypatch.setattr(tensorboard.TensorBoard, "log", lambda self, entry: hold.wait(60))
    monkeypatch.setattr(opening, "PATIENCE", 0.05)
    seen = log(["tensorboard"], told.whole)
    hold.set()
    for thread in threading.enumerate():
        if thread.name.startswith("logger-"):
            thread.join(10)
    [warned] = [event for event in seen if isinstance(event, Warned)]
    assert "is not waited for" in warned.text


def test_one_that_is_slow_but_gets_on_is_waited_for(
    log: Any, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []

    def slow(self: Any, entry: Entry) -> None:
        time.sleep(0.1)
        logged.append(entry.name)

    monkeypatch.setattr(tensorboard.TensorBoard, "log", slow)
    monkeypatch.setattr(opening, "PATIENCE", 0.5)
    assert log(["tensorboard"], told.whole) == told.whole
    assert len(logged) == 3
