"""The journal, as stock Optuna and optuna-dashboard read it."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from clray.job import Search
from clray.objective import Constraint, Objective, feasible, front, scores
from clray.study import Result, Study
from clray.study_log import Logged, study_log

FORGETTING = Objective.model_validate("forgetting")
ACCURACY = Objective.model_validate("average_accuracy")
SMALL = Constraint.model_validate("growth <= 0.2")
SPACE: dict[str, BaseDistribution] = {
    "method.strength": FloatDistribution(1, 100, log=True),
    "method.storage": CategoricalDistribution(["reservoir", None]),
}


def done(forgetting: float, growth: float | None) -> Result:
    accuracy = 1 - forgetting / 2
    measures = {"forgetting": forgetting, "growth": growth, "average_accuracy": accuracy}
    return Result("completed", measures)


RESULTS = [
    done(0.4, 0.0),
    Result("stopped", trace=(0.0, 0.01)),
    done(0.1, 0.3),
    Result("diverged"),
    done(0.2, 0.1),
    done(0.2, 0.2),
    done(0.1, None),
    Result("failed"),
]


def searched(*objectives: Objective, sampler: Any = "tpe") -> Study:
    known = [({"method.strength": 2.0, "method.storage": None}, done(0.0, 0.0))]
    one = Study(SPACE, [], Search(sampler=sampler), 12, 12, objectives, (SMALL,), known)
    for _ in range(len(RESULTS) + 1):
        one.propose()
    for number, result in enumerate(RESULTS):
        one.learn(number, result)
    return one


@pytest.fixture
def log(tmp_path: Path) -> Path:
    keys = {number: [f"key-{number}"] for number in range(len(RESULTS))}
    logged = [
        Logged("job/a/ewc", searched(FORGETTING), {"label": "ewc"}, keys),
        Logged("job/a/er/task-2", searched(FORGETTING, ACCURACY)),
        Logged("job/b/gp", searched(FORGETTING, sampler="gp")),
    ]
    path = tmp_path / "optuna.log"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_bytes(study_log(logged))
    return path


def stock(path: Path, name: str) -> Any:
    storage = JournalStorage(JournalFileBackend(str(path)))
    return optuna.load_study(study_name=name, storage=storage)


@pytest.mark.parametrize("name", ["job/a/ewc", "job/b/gp"])
def test_stock_optuna_agrees_who_is_best(log: Path, name: str) -> None:
    study = stock(log, name)
    kept = [n for n, result in enumerate(RESULTS) if feasible(result.measures, (SMALL,))]
    best = max(kept, key=lambda n: ((scores(RESULTS[n].measures, (FORGETTING,)) or ())[0], -n))
    assert best == 4
    assert study.best_trial.number == best
    assert study.best_trial.user_attrs["state"] == "completed"
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in study.trials] == [
        complete, pruned, complete, pruned, complete, complete, complete,
        TrialState.FAIL, TrialState.RUNNING,
    ]  # fmt: skip
    assert study.trials[0].value == 0.4
    assert study.trials[1].intermediate_values == {0: 0.0, 1: 0.01}
    assert study.trials[0].distributions == SPACE
    assert list(study.trials[2].constraints.values()) == [pytest.approx(0.1)]
    if name == "job/a/ewc":
        assert study.trials[4].user_attrs["keys"] == ["key-4"]
        assert study.user_attrs["label"] == "ewc"
        assert study.metric_names == ["forgetting"]
        assert [t.params for t in study.trials] == [
            searched(FORGETTING).values(n) for n in range(9)
        ]


def test_stock_optuna_agrees_on_the_front(log: Path) -> None:
    study = stock(log, "job/a/er/task-2")
    objectives = (FORGETTING, ACCURACY)
    kept = [n for n, result in enumerate(RESULTS) if feasible(result.measures, (SMALL,))]
    points = [scores(RESULTS[n].measures, objectives) or () for n in kept]
    assert {t.number for t in study.best_trials} >= {kept[i] for i in front(points)} == {4}
    assert {tuple(t.values) for t in study.best_trials} == {(0.2, 0.9)}
    study.ask(SPACE)  # it can be gone on with


def test_the_dashboard_shows_every_study(log: Path) -> None:
    reason = "optuna-dashboard is not installed"
    storage_url = pytest.importorskip("optuna_dashboard._storage_url", reason=reason)
    from optuna_dashboard import wsgi

    app = wsgi(storage_url.get_storage(str(log)))  # what `optuna-dashboard PATH` does

    def get(path: str) -> Any:
        status: list[str] = []
        environ = {
            "REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": "after=0",
            "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(), "wsgi.url_scheme": "http",
        }  # fmt: skip
        body = b"".join(app(environ, lambda code, *_: status.append(code)))
        assert status == ["200 OK"]
        return json.loads(body, parse_constant=pytest.fail)  # a browser takes no Infinity

    summaries = get("/api/studies")["study_summaries"]
    assert [one["study_name"] for one in summaries] == ["job/a/ewc", "job/a/er/task-2", "job/b/gp"]
    for summary in summaries:
        detail = get(f"/api/studies/{summary['study_id']}")
        assert [trial["number"] for trial in detail["trials"]] == list(range(9))
        infeasible = [t["number"] for t in detail["trials"] if any(c > 0 for c in t["constraints"])]
        assert infeasible == [2, 3, 6]
