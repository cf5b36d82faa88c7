from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from clray.errors import BadInput, UnknownName
from clray.streams import digits, sources
from clray.streams.dataset import Source


def test_digits_fill_the_range_of_a_byte_and_are_split_by_class() -> None:
    assert sources.check(Source("digits")) == 10
    dataset = sources.load(Source("digits"))
    bunch = load_digits()
    assert dataset.image_shape == (1, 8, 8)
    assert dataset.train_x.dtype == torch.uint8
    assert int(dataset.train_x.max()) == 255
    assert len(dataset.train_y) + len(dataset.test_y) == 1797
    fives = np.flatnonzero(bunch.target == 5)
    pixels = np.rint(bunch.images[fives[4]] * 255 / 16)
    first = dataset.test_x[dataset.test_y == 5][0, 0]
    assert np.array_equal(first.numpy(), pixels)
    assert (dataset.test_y == 5).sum() == len(fives) // 5


def test_the_reserved_quarter_and_the_rest_are_all_digits_and_share_none() -> None:
    assert sources.check(Source("digits-rest")) == 10
    rest = sources.load(Source("digits-rest"))
    images, labels = digits.whole()
    reserved = digits.reserved()
    left = torch.cat([rest.train_x, rest.test_x])

    def rows(x: torch.Tensor) -> list[bytes]:
        return [row.numpy().tobytes() for row in x]

    assert sorted(rows(left) + rows(images[reserved])) == sorted(rows(images))
    assert not set(rows(left)) & set(rows(images[reserved]))
    assert (len(left), int(reserved.sum()), len(images)) == (1352, 445, 1797)
    for cls in range(10):
        count = int((labels == cls).sum())
        assert int((labels[reserved] == cls).sum()) == count // 4
        assert int((rest.test_y == cls).sum()) == (count - count // 4) // 5


def test_digits_in_another_size_and_colour() -> None:
    dataset = sources.load(Source("digits", image_size=12, channels=3))
    assert dataset.image_shape == (3, 12, 12)
    assert torch.equal(dataset.train_x[:, 0], dataset.train_x[:, 2])


def test_a_dataset_is_loaded_once_and_few_are_kept() -> None:
    sources._cache.clear()
    first = sources.load(Source("digits"))
    assert sources.load(Source("digits")) is first
    for size in (9, 10):
        sources.load(Source("digits", image_size=size))
    assert len(sources._cache) == sources.CACHED
    assert sources.load(Source("digits")) is not first


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("digit", "digits"),
        ("mnist-10k", "mnist10k"),
        ("torchvison/MNIST", "torchvision/MNIST"),
        ("torchvision/CIFAR-10", "CIFAR10"),
        ("parquet:", ""),
        ("s3://bucket/file", ""),
    ],
)
def test_an_unknown_dataset_is_refused_with_the_nearest_name(name: str, suggestion: str) -> None:
    with pytest.raises(UnknownName) as raised:
        sources.check(Source(name))
    assert f"got {name.removeprefix('torchvision/')!r}" in str(raised.value)
    assert not suggestion or f"Did you mean {suggestion!r}?" in str(raised.value)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


@pytest.mark.skipif("CLRAY_DATA" not in os.environ, reason="CLRAY_DATA is not set")
def test_mnist10k_is_the_test_file_in_file_order() -> None:
    assert sources.check(Source("mnist10k")) == 10
    dataset = sources.load(Source("mnist10k"))
    assert dataset.train_x.shape == (8000, 1, 28, 28)
    assert dataset.test_x.shape == (2000, 1, 28, 28)
    assert dataset.train_y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert int(dataset.train_x.max()) == 255


def test_mnist10k_needs_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLRAY_DATA", raising=False)
    with pytest.raises(BadInput, match="CLRAY_DATA is not set"):
        sources.check(Source("mnist10k"))
