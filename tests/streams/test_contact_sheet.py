"""The picture of a stored stream: which examples it holds, and that every shape can be drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clray.errors import BadData, BadInput
from clray.streams import contact_sheet, sheet_file
from clray.streams.contact_sheet import COLUMNS, draw
from clray.streams.manifest import Manifest, Shard
from clray.streams.shards import read_blocks


def test_examples_are_of_the_task_and_spread_over_its_classes(store_stream: Any) -> None:
    stored = store_stream(rows=200)
    for task in stored.manifest.tasks:
        drawn = draw(stored.uri, stored.manifest, task, seed=0)
        labels, counts = np.unique(drawn.labels, return_counts=True)
        assert (labels.tolist(), counts.tolist()) == (list(task.classes), [COLUMNS // 2] * 2)
        ids = np.ascontiguousarray(drawn.images.reshape(COLUMNS, -1)[:, :8]).view(np.int64)
        assert len(np.unique(ids)) == COLUMNS, "no example twice"
        assert (drawn.labels == task.classes[0] + ids[:, 0] % 2).all(), "each with its own label"


def test_draws_depend_on_the_seed_alone(store_stream: Any) -> None:
    stored = store_stream(rows=200)
    task = stored.manifest.tasks[0]
    first, again, other = (draw(stored.uri, stored.manifest, task, seed) for seed in (0, 0, 1))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images)


def test_few_blocks_are_read(store_stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store_stream(rows=2000, shard_rows=256, block_rows=16)
    read: list[Any] = []

    def counted(uri: str, wanted: Any, *sizes: Any) -> Any:
        read.extend(wanted)
        return read_blocks(uri, wanted, *sizes)

    monkeypatch.setattr(contact_sheet, "read_blocks", counted)
    contact_sheet.contact_sheet(stored.uri, stored.manifest, "a")
    assert len(read) <= 2 * 2 * contact_sheet.BLOCKS


@pytest.mark.parametrize("num_classes", [1, 3, 10, 12, 16, 17, 40])
def test_columns_go_with_the_classes(num_classes: int, store_stream: Any) -> None:
    generator = np.random.default_rng(0)
    [task] = store_stream(num_tasks=1).manifest.tasks
    classes = dict.fromkeys(range(num_classes), 5)
    shard = Shard(path="x", rows=5 * num_classes, bytes=1, sha256="", classes=classes)
    shares = contact_sheet._shares(task.model_copy(update={"train": (shard,)}), generator)
    assert 10 <= sum(shares.values()) <= 16
    assert max(shares.values()) - min(shares.values()) <= 1


@pytest.mark.parametrize(
    ("shape", "cell"),
    [
        ((1, 8, 8), (72, 72)),
        ((1, 28, 28), (84, 84)),
        ((3, 32, 32), (64, 64)),
        ((3, 64, 48), (48, 64)),
        ((3, 224, 224), (96, 96)),
        ((1, 200, 400), (96, 48)),
        ((2, 8, 8), (72, 72)),
        ((4, 8, 8), (72, 72)),
    ],
)
def test_every_shape(shape: Any, cell: Any, store_stream: Any) -> None:
    stored = store_stream(shape=shape, class_names=())
    assert contact_sheet._cell_size(*shape[1:]) == cell
    sheet = contact_sheet.contact_sheet(stored.uri, stored.manifest, "a stream")
    assert sheet.mode == "RGB"
    assert sheet.height > 2 * cell[1]
    assert sheet.width > COLUMNS * cell[0]


def test_tasks_can_be_chosen(store_stream: Any) -> None:
    stored = store_stream(num_tasks=4)
    whole, part = (
        contact_sheet.contact_sheet(stored.uri, stored.manifest, "a", tasks)
        for tasks in (None, [0, 3])
    )
    assert part.height < whole.height


def test_features_and_damage_are_refused(store_stream: Any, tmp_path: Path) -> None:
    features = store_stream(tmp_path / "features", shape=(6, 1, 1), dtype="float16")
    with pytest.raises(BadData, match="features"):
        contact_sheet.contact_sheet(features.uri, features.manifest, "a")
    images = store_stream(tmp_path / "images")
    for shard in images.manifest.tasks[1].train:
        (images.path / shard.path).write_bytes(b"PAR1")
    with pytest.raises(BadData, match="task=001/split=train/part-"):
        contact_sheet.contact_sheet(images.uri, images.manifest, "a")


def test_what_somebody_else_drew_stays(tmp_path: Path) -> None:
    file, sheet = tmp_path / "a.png", Image.new("RGB", (4, 4))
    sheet.save(file)
    with pytest.raises(BadInput, match="no contact sheet of clray's"):
        sheet_file.check_free(file, chosen=False, where="--png")
    sheet_file.check_free(file, chosen=True, where="--png")
    sheet_file.save(sheet, file, "--png")
    sheet_file.check_free(file, chosen=False, where="--png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_manifest_without_examples(store_stream: Any) -> None:
    stored = store_stream(num_tasks=1)
    content = stored.manifest.model_dump()
    content["tasks"][0]["train"] = []
    manifest = Manifest.model_validate(content)
    assert contact_sheet.contact_sheet(stored.uri, manifest, "a").height > 0
