"""Streams of texts: files, labels, draws, tokens as bytes, WebNLP's layout, refusals."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clray import registry
from clray.errors import BadData, BadInput, BadSpec
from clray.spec import PIN, Component
from clray.streams import sources, text_files, texts, tokens
from clray.streams.building import _shape
from clray.streams.transforms import Prepare
from clray.task import Stream
from tests.text_material import WORDS, save_tokenizer, write_texts

CPU = torch.device("cpu")
ROWS = [("w1 w2", "w3"), ('say "w4"', "w5\nw6, w7"), ("", "w8"), ("w9", "")]
EXPECTED = [[2, 5, 6, 7, 3], [2, 1, 1, 8, 1, 9, 10, 3], [2, 12, 3], [2, 13, 3]]
"""Their ids: [CLS] is 2, [SEP] 3, [UNK] 1, w0 4; the second one is cut off after w6."""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def stream_of(tmp_path: Path, tokenizer: str) -> Callable[..., Stream]:
    """A stream of the folders below tmp_path."""

    def make(dataset: Any = "a", split: Any = "test", seed: int = 0, **knobs: Any) -> Stream:
        knobs = {"root": str(tmp_path), "tokenizer": tokenizer, "max_tokens": 8, **knobs}
        config = registry.configure("benchmark", Component(name="texts", dataset=dataset, **knobs))
        stream: Stream = config.build(split, 0.5, seed, CPU)
        return stream

    return make


def write(folder: Path, rows: list[list[Any]], header: list[str] | None = None) -> None:
    """The same rows as training and test half, as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    for half in ("train", "test"):
        with open(folder / f"{half}.csv", "w", newline="") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([header, *rows] if header else rows)


def write_parquet(folder: Path, columns: dict[str, Any], metadata: Any = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    if metadata is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    for half in ("train", "test"):
        pq.write_table(table, folder / f"{half}-00000-of-00001.parquet", row_group_size=3)


def content(stream: Stream, task: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Token ids [n, L] and labels of a task's training examples."""
    xs, ys = zip(*stream.tasks[task].train.batches(100), strict=True)
    ids = tokens.as_ids(Prepare()(torch.cat(xs)))
    return ids.where(ids != tokens.PADDING, -1), torch.cat(ys).tolist()


def test_ids_survive_as_bytes() -> None:
    """Every value of every byte, through what a network's input goes through."""
    bytes_ = torch.arange(256)
    ids = torch.stack([bytes_, bytes_ << 8, bytes_ << 16, bytes_ * 0x010101, bytes_ * 65_521])
    x = tokens.as_bytes(ids)
    assert (x.dtype, x.shape) == (torch.uint8, (5, 3, 256, 1))
    assert torch.equal(tokens.as_ids(Prepare()(x)), ids)
    assert ids.max() == tokens.PADDING


def test_csv_and_parquet_files_say_the_same(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    rows = [[1 + i % 2, *ROWS[i]] for i in range(4)]
    write(tmp_path / "plain", rows)
    write(tmp_path / "headed", [[b, c, a] for a, b, c in rows], ["title", "text", "label"])
    labels, titles, bodies = zip(*rows, strict=True)
    hub = {
        "label": [label - 1 for label in labels],
        "title": list(titles),
        "text": list(bodies),
        "id": list(range(4)),
    }
    named = {"info": {"features": {"label": {"names": ["even", "odd"]}}}}
    write_parquet(tmp_path / "hub", hub, named)
    ids, found = content(stream_of("plain"))
    assert found == [0, 1, 0, 1]
    for row, own in zip(ids.tolist(), EXPECTED, strict=True):
        assert row == own + [-1] * (8 - len(own))
    headed = content(stream_of("headed", header=True))
    assert torch.equal(headed[0], ids)
    parquet = content(stream_of("hub", columns={"hub": ["label", "title", "text"]}))
    assert torch.equal(parquet[0], ids)
    assert headed[1] == parquet[1] == found


def test_labels_are_numbers_by_size_or_strings(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    given: dict[str, list[Any]] = {"one": [10, 9, 2], "strings": ["b", "c", "a"]}
    for name, labels in given.items():
        write(tmp_path / name, [[label, f"w{i}"] for i, label in enumerate(labels * 2)])
    assert content(stream_of("one"))[1] == [2, 1, 0] * 2
    assert content(stream_of("strings"))[1] == [1, 2, 0] * 2


def test_small_batches_and_pieces_find_the_same_rows(
    tmp_path: Path, stream_of: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "a", range(3), train=40)
    with open(tmp_path / "a/train.csv", newline="") as file:
        rows = list(csv.reader(file))
    labels, titles, bodies = (list(column) for column in zip(*rows, strict=True))
    write_parquet(tmp_path / "b", {"label": labels, "title": titles, "text": bodies})
    whole = content(stream_of("a"))
    plain = content(stream_of("a", train_per_class=7))
    text_files.labels.cache_clear()
    sources._cache.clear()
    monkeypatch.setattr(text_files, "BLOCK_BYTES", 600)
    monkeypatch.setattr(text_files, "BATCH_ROWS", 2)
    monkeypatch.setattr(texts, "PIECE_ROWS", 5)
    for knobs, expected in (({}, whole), ({"train_per_class": 7}, plain)):
        for name in ("a", "b"):
            ids, found = content(stream_of(name, **knobs))
            assert torch.equal(ids, expected[0])
            assert found == expected[1]
    assert sorted(plain[1]) == [0] * 7 + [1] * 7 + [2] * 7


def test_what_is_drawn_is_the_same_for_all_trials(
    tmp_path: Path, stream_of: Callable[..., Stream]
) -> None:
    write_texts(tmp_path / "a", range(3))
    drawn = {"train_per_class": 6, "test_per_class": 2}

    def ids(**knobs: Any) -> set[tuple[int, ...]]:
        return {tuple(row) for row in content(stream_of(**drawn, **knobs))[0].tolist()}

    assert ids() == ids(seed=1) != ids(subset_seed=1)
    held = [stream_of("a", "validation", seed, **drawn).tasks[0] for seed in (0, 1)]
    assert [(len(task.train), len(task.eval)) for task in held] == [(9, 9)] * 2
    first, second = (torch.cat([x for x, _ in task.eval.batches(9)]) for task in held)
    assert not torch.equal(first, second)
    assert len(stream_of(**drawn).tasks[0].eval) == 6


def test_rows_without_label_or_text_are_named(tmp_path: Path, tokenizer: str) -> None:
    write(tmp_path / "a", [[1, "w1"], [2, "w2"], ["", "w3"], [1, "  "]])
    write_texts(tmp_path / "b", range(2))
    (tmp_path / "b/test.csv").write_text('"3","","w1"\n')
    knobs = {"root": str(tmp_path), "tokenizer": tokenizer}
    found = {}
    for name in ("a", "b"):
        component = Component(name="texts", dataset=name, **knobs)
        found[name] = registry.configure("benchmark", component).listing()
    [piece] = found["a"].train
    labels, bad = piece.labels()
    assert labels.tolist() == [0, 1, -1, 0]
    assert (bad[0].index, bad[0].where) == (2, f"{tmp_path}/a/train.csv, row 2: label")
    assert bad[0].accepted == "one of 1, 2"
    x, bad = piece.images([1, 3], None)
    assert (bad[0].index, bad[0].where) == (3, f"{tmp_path}/a/train.csv, row 3: text")
    assert x[1].sum() == 0
    assert found["b"].test[0].labels()[1][0].index == 0
    assert _shape(found["a"].train) == (3, 256, 1)


def test_webnlp(tmp_path: Path, tokenizer: str) -> None:
    sizes = {"ag": 4, "yelp": 5, "amazon": 5, "yahoo": 10, "dbpedia": 14}
    for name, count in sizes.items():
        write_texts(tmp_path / name, range(count - 2, 2 * count - 2), train=9, test=3)

    def build(**knobs: Any) -> Stream:
        given = {"root": str(tmp_path), "tokenizer": tokenizer, "max_tokens": 16, **knobs}
        config = registry.configure("benchmark", Component(name="webnlp", **given))
        assert config.check() == 5
        stream: Stream = config.build("validation", 0.5, 0, CPU)
        return stream

    stream = build(train_per_class=6)
    assert stream.scenario == "task-incremental"
    assert (stream.num_classes, stream.image_shape) == (38, (3, 16, 1))
    assert [(t.name, len(t.classes)) for t in stream.tasks] == list(sizes.items())
    for task in stream.tasks:
        for examples in (task.train, task.eval):
            labels = torch.cat([y for _, y in examples.batches(100)])
            assert labels.bincount()[list(task.classes)].tolist() == [3] * len(task.classes)
    orders = {
        "i": ["yelp", "ag", "dbpedia", "amazon", "yahoo"],
        "ii": ["dbpedia", "yahoo", "ag", "amazon", "yelp"],
        "iii": ["yelp", "yahoo", "amazon", "dbpedia", "ag"],
        "iv": ["ag", "yelp", "amazon", "yahoo", "dbpedia"],
    }
    for number, names in orders.items():
        other = build(task_order=f"webnlp/{number}", train_per_class=6)
        assert [task.name for task in other.tasks] == names
        units = {task.name: task.classes for task in stream.tasks}
        assert {task.name: task.classes for task in other.tasks} == units
    found = registry.configure("benchmark", Component(name="webnlp"))
    assert (found.train_per_class, found.max_tokens) == (4000, 256)


def test_a_tokenizer_is_pinned_by_its_content(tmp_path: Path) -> None:
    write_texts(tmp_path / "a", range(2))
    first = save_tokenizer(tmp_path / "first")
    same = save_tokenizer(tmp_path / "same")
    other = save_tokenizer(tmp_path / "other", WORDS[::-1])

    def pinned(name: str) -> Any:
        knobs = {"dataset": "a", "root": str(tmp_path), "tokenizer": name}
        return registry.configure("benchmark", Component(name="texts", **knobs)).pinned()

    config = pinned(first)
    hashes = [pinned(name).tokenizer.partition(PIN)[2] for name in (first, same, other)]
    assert config.tokenizer.startswith(first + PIN)
    assert hashes[0] == hashes[1] != hashes[2]
    assert config.pinned() == config
    save_tokenizer(tmp_path / "first", WORDS[:-1])
    with pytest.raises(BadData, match="as it is pinned"):
        config.check()


BAD: list[tuple[dict[str, Any], type[BadInput], str]] = [
    ({"dataset": "none"}, BadData, r"benchmark\.dataset: got 'text:.*none'.*train\*\.csv"),
    ({"root": "$NOT_SET"}, BadData, "NOT_SET is not set"),
    ({"tokenizer": "./nothing"}, BadData, r"benchmark\.tokenizer: got './nothing'"),
    ({"tokenizer": "{root}/a"}, BadData, "a fast tokenizer, as save_pretrained writes it"),
    ({"columns": {"b": ["0"]}}, BadSpec, r"benchmark\.columns: got 'b'; accepted: a"),
    ({"columns": {"a": ["label"]}}, BadData, r"train\.csv: benchmark\.columns: got 'label'.*0, 1"),
    ({"columns": {"a": ["0", "0"]}}, BadSpec, "different columns"),
    ({"header": True}, BadData, "a column named label, or benchmark.columns"),
    ({"header": True, "columns": {"a": ["1"]}}, BadData, r"header: got '1'.*header: false"),
    ({"dataset": "headed"}, BadData, "row 0: label: got 'label'.*benchmark.header: true"),
    ({"dataset": "torn"}, BadData, r"torn/train\.csv: got '.*Expected 2 columns, got 3"),
    ({"dataset": "both"}, BadData, "CSV files or Parquet files, not both"),
    ({"dataset": "floats"}, BadData, "column label: got 'double'; accepted: whole numbers"),
    ({"dataset": "lists"}, BadData, "column text: got 'list.*accepted: strings"),
    ({"max_tokens": 2}, BadSpec, "benchmark.max_tokens: got 2; accepted: 3 or more"),
    ({"channels": 3}, BadSpec, "benchmark.channels: got 3.*texts, not images"),
    ({"mean": [0.5, 0.5, 0.5]}, BadSpec, r"benchmark\.mean"),
    ({"augment": "flip"}, BadSpec, r"benchmark\.augment"),
]


@pytest.mark.parametrize(("knobs", "kind", "message"), BAD)
def test_bad_input(
    knobs: dict[str, Any],
    kind: type[BadInput],
    message: str,
    tmp_path: Path,
    stream_of: Callable[..., Stream],
) -> None:
    write(tmp_path / "a", [[1, "w1"], [2, "w2"]])
    write(tmp_path / "headed", [[1, "w1"], [2, "w2"]], ["label", "text"])
    write(tmp_path / "torn", [[1, "w1"], [2, "w2", "w3"]])
    write(tmp_path / "both", [[1, "w1"], [2, "w2"]])
    write_parquet(tmp_path / "both", {"label": [1, 2], "text": ["w1", "w2"]})
    write_parquet(tmp_path / "floats", {"label": [1.0, 2.0], "text": ["w1", "w2"]})
    write_parquet(tmp_path / "lists", {"label": [1, 2], "text": [["w1"], ["w2"]]})
    if "tokenizer" in knobs:
        knobs = {"tokenizer": knobs["tokenizer"].format(root=tmp_path)}
    with pytest.raises(kind, match=message):
        stream_of(**knobs)


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, stream_of: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_texts(tmp_path / "a", range(2))
    tokens._load.cache_clear()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BadSpec, match=r"pip install 'clray\[text\]'"):
        stream_of()


def test_benchmarks_of_images_refuse_texts(tmp_path: Path) -> None:
    component = Component(name="split", dataset=f"text:{tmp_path}", num_tasks=2)
    with pytest.raises(BadSpec, match="such as texts or webnlp"):
        registry.configure("benchmark", component).check()
