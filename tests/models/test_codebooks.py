from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clray.errors import BadSpec
from clray.models.codebook_config import CodebookConfig
from clray.models.codebooks import Codebooks, nearest


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(width: int, **knobs: object) -> Codebooks:
    config = CodebookConfig.model_validate(knobs)
    return config.build(width, torch.Generator().manual_seed(0))


def distances(heads: Tensor, keys: Tensor) -> Tensor:
    """[B, C, K], in float64."""
    return torch.cdist(heads.double().transpose(0, 1), keys.double()).transpose(0, 1)


def test_random_projections_are_unit_vectors_of_the_features() -> None:
    books = build(48, codebooks=5, pairs=8, key_dim=3)
    assert books.projection is not None
    assert books.projection.shape == (48, 15)
    torch.testing.assert_close(books.projection.norm(dim=0), torch.ones(15), rtol=0, atol=1e-6)
    features = drawn(7, 48)
    expected = features @ books.projection[:, 6:9]  # of the third codebook
    assert books.heads(features).shape == (7, 5, 3)
    torch.testing.assert_close(books.heads(features)[:, 2], expected)


def test_linear_projections_begin_as_a_linear_layer_does() -> None:
    books = build(100, codebooks=10, pairs=2, key_dim=30, projection="linear")
    assert books.projection is not None
    assert 0.099 < books.projection.max() <= 0.1
    assert -0.1 <= books.projection.min() < -0.099


def test_chunks_are_slices_and_must_divide() -> None:
    books = build(12, codebooks=3, pairs=8, key_dim=7, projection="chunk")
    features = drawn(5, 12)
    assert books.key_dim == 4
    for book in range(3):
        assert torch.equal(books.heads(features)[:, book], features[:, 4 * book : 4 * book + 4])
    with pytest.raises(BadSpec, match=r"method\.codebooks.*divisor of the 12"):
        build(12, codebooks=5, projection="chunk")


@pytest.mark.parametrize("num_pairs", [1, 7, 20, 96, 400, 509])
def test_the_search_is_brute_force_in_pieces_of_any_size(num_pairs: int) -> None:
    heads, keys = drawn(83, 6, 5), drawn(6, num_pairs, 5, seed=1)
    every = distances(heads, keys)
    codes = nearest(heads, keys)
    best = every.gather(2, codes).squeeze(2)
    assert ((best - every.amin(2)) <= 1e-5 * best).all()
    assert (codes.squeeze(2) == every.argmin(2)).float().mean() > 0.999
    for most_bytes in (1, 4 * num_pairs * 32, 4 * num_pairs * 32 * 4, 1 << 30):
        assert torch.equal(nearest(heads, keys, most_bytes=most_bytes), codes)


@pytest.mark.parametrize(("num_pairs", "key_dim"), [(512, 14), (20, 2), (4, 4)])
def test_codes_do_not_depend_on_the_batch(num_pairs: int, key_dim: int) -> None:
    books = build(64, codebooks=8, pairs=num_pairs, key_dim=key_dim)
    books.keys[:, 1::2] = books.keys[:, ::2] * (1 - 1e-7)  # rounding decides between the two
    features = drawn(101, 64)
    for size in (1, 2, 3, 5, 31):
        parts = torch.split(features, size)
        assert torch.equal(torch.cat([books.heads(part) for part in parts]), books.heads(features))
        assert torch.equal(torch.cat([books(part) for part in parts]), books(features))
    assert books(features[:0]).shape == (0, 8)


def test_equal_distances_go_to_the_lowest_index() -> None:
    keys = drawn(2, 128, 3)
    keys[0, [70, 75, 127]] = keys[0, 9].clone()  # in the group of the first, and in later ones
    keys[1] = 0
    heads = torch.stack([keys[0, 9], torch.ones(3)]).unsqueeze(0)
    assert nearest(heads, keys).tolist() == [[[9], [0]]]
    assert nearest(heads, keys, top=3).tolist() == [[[9, 70, 75], [0, 1, 2]]]


def test_only_usable_keys_are_found() -> None:
    books = build(16, codebooks=4, pairs=64, key_dim=3)
    features = drawn(50, 16)
    usable = torch.rand(4, 64, generator=torch.Generator().manual_seed(1)) < 0.3
    usable[3] = False
    codes = books.assign(features, usable).squeeze(2)
    every = distances(books.heads(features), books.keys).masked_fill(~usable, torch.inf)
    assert torch.equal(codes[:, :3], every.argmin(2)[:, :3])
    assert (codes[:, 3] == 0).all()
    usable[3, 40] = True
    assert (books.assign(features, usable, top=3)[:, 3] == torch.tensor([40, 0, 1])).all()


def test_the_nearest_few_come_in_order() -> None:
    books = build(16, codebooks=4, pairs=96, key_dim=3)
    features = drawn(20, 16)
    expected = distances(books.heads(features), books.keys).argsort(2)[..., :5]
    assert torch.equal(books.assign(features, top=5), expected)
    with pytest.raises(BadSpec, match="96 pairs"):
        books.assign(features, top=97)


def test_the_search_is_in_float32_whatever_is_asked_for_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books, features = build(64, codebooks=8, pairs=512), drawn(40, 64)
    codes, product, seen = books(features), torch.baddbmm, set()

    def noted(*args: Any, **kwargs: Any) -> Tensor:
        seen.add(torch.backends.cuda.matmul.fp32_precision)
        return product(*args, **kwargs)

    monkeypatch.setattr(torch, "baddbmm", noted)
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (features @ features.t()).dtype == torch.bfloat16
            assert torch.equal(books(features), codes)
        assert seen == {"ieee"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("projection", ["random", "chunk"])
def test_fewer_codebooks_are_the_first_ones(projection: str) -> None:
    books = build(32, codebooks=8, pairs=64, key_dim=4, projection=projection)
    features = drawn(30, 32)
    fewer = books.first(3)
    assert torch.equal(fewer(features), books(features)[:, :3])
    fewer.keys.zero_()
    assert books.keys[:3].any()
    for count in (0, 9):
        with pytest.raises(BadSpec, match="1 to 8"):
            books.first(count)


def test_state_holds_projection_and_keys_and_nothing_learns() -> None:
    books, other = build(32, codebooks=4, pairs=16), build(32, codebooks=4, pairs=16)
    other.keys.zero_()
    other.load_state_dict(books.state_dict())
    assert sorted(books.state_dict()) == ["keys", "projection"]
    assert torch.equal(other(drawn(9, 32)), books(drawn(9, 32)))
    assert not list(books.parameters())
