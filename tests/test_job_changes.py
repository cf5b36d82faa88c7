"""Which jobs go on under their name, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from clray.errors import BadSpec
from clray.job import JobSpec
from clray.job_changes import Change, beside, changes, refuse_changed
from clray.parsing import merge
from clray.store import job_folder

PLAIN: dict[str, Any] = {
    "name": "a",
    "benchmark": {"name": "stored", "stream": "/data/a#sha256=abc"},
    "methods": {
        "ewc": {
            "method": {"name": "ewc", "strength": 100.0},
            "space": {"method": {"strength": {"range": [1, 10], "log": True}}},
            "trials": 4,
        },
        "finetune": {},
    },
}


def _job(**others: Any) -> JobSpec:
    return JobSpec.model_validate(merge(PLAIN, others))


def _store(results: str, job: JobSpec, content: dict[str, Any] | None = None) -> None:
    plain = job.model_dump(mode="json") if content is None else content
    folder = job_folder(results, job.name)
    folder.write("job.yaml", yaml.safe_dump(plain, sort_keys=False).encode())


def _refused(results: str, job: JobSpec) -> str:
    with pytest.raises(BadSpec) as caught:
        refuse_changed(job_folder(results, job.name), job)
    return str(caught.value)


@pytest.fixture
def results(tmp_path: Any) -> str:
    """A folder in which the job ``a`` was started."""
    _store(str(tmp_path), _job())
    return str(tmp_path)


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"store": {"model": True}},
        {"loggers": ["tensorboard"]},
        {"resources": {"workers": 2, "memory": "1 GiB", "reading": "stream"}},
        {"benchmark": {"stream": "s3://elsewhere/b#sha256=abc"}},
        {"methods": {"finetune": {}, "ewc": PLAIN["methods"]["ewc"]}},
    ],
)
def test_what_cannot_change_a_result_goes_on(others: dict[str, Any], results: str) -> None:
    refuse_changed(job_folder(results, "a"), _job(**others))
    assert beside(results, _job(**others)).name == "a"


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"search": {"trials": 8}}, "search.trials: 16 -> 8"),
        ({"search": {"objective": "forgetting"}}, '"average_accuracy" -> "forgetting"'),
        ({"search": {"scheduler": "asha"}}, "search.scheduler: null -> {"),
        ({"resources": {"slots": 4}}, "resources.slots: 2 -> 4"),
        ({"benchmark": {"stream": "/data/a#sha256=other"}}, "benchmark.stream: "),
        ({"methods": {"er": {}}}, "methods.er: nothing -> {"),
        ({"methods": {"ewc": {"method": {"strength": True}}}}, "strength: 100.0 -> true"),
        ({"final": {"orders": 3}}, "final.orders: null -> 3"),
        ({"protocol": {"selection": "first-k"}}, "protocol.selection.0.k: nothing -> 3"),
    ],
)
def test_what_may_is_refused_with_the_change(
    others: dict[str, Any], line: str, results: str
) -> None:
    said = _refused(results, _job(**others))
    assert line in said
    assert "accepted: the job as it was started; or --anew" in said
    assert "a-2" in said


def test_slots_count_only_where_the_search_is_deterministic(results: str) -> None:
    for search in ({"deterministic": False}, {"scheduler": "asha"}):
        _store(results, _job(search=search))
        refuse_changed(job_folder(results, "a"), _job(search=search, resources={"slots": 7}))
    _store(results, _job(search={"scheduler": "none"}))
    assert "slots" in _refused(results, _job(search={"scheduler": "none"}, resources={"slots": 7}))


def test_many_changes_are_counted(results: str) -> None:
    methods: dict[str, Any] = {f"er.{number}": {} for number in range(20)}
    said = _refused(results, _job(methods=methods))
    assert "and 8 more" in said
    assert len(said.splitlines()) == 1 + 12 + 1 + 1


def test_a_new_name_is_free(results: str) -> None:
    refuse_changed(job_folder(results, "b"), _job(name="b"))


def test_the_same_command_goes_on_beside(results: str) -> None:
    second, third = _job(search={"trials": 8}), _job(search={"trials": 9})
    assert beside(results, second).name == "a-2"
    _store(results, beside(results, second))
    assert beside(results, second).name == "a-2"
    assert beside(results, third).name == "a-3"
    long = _job(name="n" * 100)
    _store(results, long)
    named = beside(results, long.model_copy(update={"search": second.search}))
    assert JobSpec.model_validate(named.model_dump(mode="json")).name == "n" * 98 + "-2"


OLD_SEARCH = {"objective": "average_accuracy", "scheduler": None}


@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (merge(_job().model_dump(mode="json"), {"search": OLD_SEARCH}), "another version"),
        (
            merge(_job().model_dump(mode="json"), {"budget": 3}),
            "another version of clray (job.yaml",
        ),
        ({}, "another version"),
        ("nothing of the kind", "job.yaml is damaged"),
    ],
)
def test_files_of_other_versions(content: Any, piece: str, results: str) -> None:
    _store(results, _job(), content)
    said = _refused(results, _job())
    assert piece in said
    assert "--anew" in said
    assert beside(results, _job()).name == "a-2"


def test_fields_that_came_later_are_filled_in(results: str) -> None:
    content = _job().model_dump(mode="json")
    del content["search"]["warm_start"]
    _store(results, _job(), content)
    refuse_changed(job_folder(results, "a"), _job())
    assert "warm_start" in _refused(results, _job(search={"warm_start": ["b"]}))


def test_changes_of_plain_mappings() -> None:
    assert changes({"a": {"b": [1, 2]}, "c": 1}, {"a": {"b": [1, 3]}, "d": 1.0}) == [
        Change("a.b.1", 2, 3),
        *changes({"c": 1}, {}),
        *changes({}, {"d": 1.0}),
    ]
    assert changes({"a": 1}, {"a": 1.0}) == []
    assert [str(change) for change in changes({"a": 0}, {"a": False})] == ["a: 0 -> false"]
