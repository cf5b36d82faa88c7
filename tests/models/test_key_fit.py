from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from clray.errors import BadData
from clray.models.codebook_config import CodebookConfig
from clray.models.codebooks import Codebooks, nearest
from clray.models.key_fit import KeyAverage, fit_keys, smoothed

MODES = ["clean", "released", "kmeans", "samples"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def averages(
    keys: Tensor, dead_below: float, released: bool = False, decay: float = 0.9
) -> KeyAverage:
    return KeyAverage(keys, decay, dead_below, released, seeded())


def moved(average: KeyAverage, heads: Tensor) -> None:
    average.update(heads, nearest(heads, average.keys).squeeze(2))


def fit(books: Codebooks, features: Tensor, **knobs: Any) -> dict[str, float]:
    """With batches of 64, the last one smaller."""
    settings = {"codebooks": books.num_codebooks, "pairs": books.num_pairs, "key_batch": 64}
    config = CodebookConfig.model_validate(settings | knobs)
    return fit_keys(books, config, lambda epoch: torch.split(features, 64), seeded(1))


def books(num_codebooks: int, num_pairs: int, key_dim: int) -> Codebooks:
    """Of slices of the features."""
    return Codebooks(None, drawn(num_codebooks, num_pairs, key_dim))


def test_released_key_of_one_place_has_a_closed_form() -> None:
    key, x, n, decay = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 1.0]), 8, 0.9
    average = averages(key.view(1, 1, 2).clone(), 0, released=True)
    for step in range(1, 60):
        moved(average, x.expand(n, 1, 2))
        faded = decay**step
        expected = x + key * faded / ((1 - faded) * n)
        torch.testing.assert_close(average.keys[0, 0], expected, rtol=1e-5, atol=1e-5)


def test_clean_key_of_one_place_has_a_closed_form() -> None:
    key, x, n, decay, first = torch.tensor([3.0, -2.0]), torch.tensor([0.5, 1.0]), 8, 0.9, 0.25
    average = averages(torch.zeros(1, 1, 2), first)
    average.begin(key.expand(n, 1, 2))
    assert average.counts.item() == first
    for step in range(1, 60):
        moved(average, x.expand(n, 1, 2))
        kept, new = first * decay**step, (1 - decay**step) * n
        expected = x + (key - x) * kept / (kept + new)
        torch.testing.assert_close(average.keys[0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("released", [True, False])
def test_an_update_is_that_of_the_equations(released: bool) -> None:
    """Written out with one-hot matrices, in float64; no key is put elsewhere."""
    keys, decay = drawn(3, 6, 2).double(), 0.8
    average = averages(keys.float(), 0, released, decay)
    counts = torch.zeros(3, 6).double()
    if not released:
        counts.fill_(0.3)
        average.counts.fill_(0.3)
    sums = keys.clone() if released else keys * 0.3
    for step in range(5):
        heads = drawn(40, 3, 2, seed=step)
        codes = nearest(heads, average.keys).squeeze(2)
        hot = torch.nn.functional.one_hot(codes, 6).double()
        counts = decay * counts + (1 - decay) * hot.sum(0)
        sums = decay * sums + (1 - decay) * torch.einsum("bck,bcd->ckd", hot, heads.double())
        keys = sums / (smoothed(counts) if released else counts).unsqueeze(2)
        average.update(heads, codes)
        torch.testing.assert_close(average.keys.double(), keys, rtol=1e-5, atol=1e-5)


def test_keys_converge_to_their_blobs() -> None:
    sigma, decay = 0.05, 0.9
    angles = torch.arange(8) * math.pi / 4
    means = torch.stack([angles.cos(), angles.sin()], 1)
    generator = seeded(3)
    start = means + 0.2 * torch.randn(8, 2, generator=generator)
    average = averages(start.unsqueeze(0).clone(), 0, decay=decay)
    errors = []
    for _ in range(300):
        blobs = torch.randint(8, (64,), generator=generator)
        heads = (means[blobs] + sigma * torch.randn(64, 2, generator=generator)).unsqueeze(1)
        codes = nearest(heads, average.keys).squeeze(2)
        errors.append((heads - average.keys[0, codes]).square().sum(2).mean())
        average.update(heads, codes)
    effective = 8 * (1 + decay) / (1 - decay)  # of each blob 64 / 8 in a batch, fading
    off = (average.keys[0] - means).norm(dim=1)
    assert (off <= 3 * sigma * math.sqrt(2 / effective)).all()
    parts = torch.stack(errors).view(3, 100).mean(1)
    assert parts[0] > parts[1] * 1.01
    assert parts[2] <= parts[1] * 1.02


@pytest.mark.parametrize("released", [True, False])
def test_dead_keys_are_put_where_they_are_used(released: bool) -> None:
    keys = drawn(2, 16, 3)
    keys[:, ::2] = 1e3
    average = averages(keys, 0.1 * 64 / 16, released, decay=0.95)
    used = torch.zeros(2, 16, dtype=torch.bool)
    for step in range(300):
        heads = drawn(64, 2, 3, seed=step)
        codes = nearest(heads, keys).squeeze(2)
        used[torch.arange(2), codes] = True
        average.update(heads, codes)
    assert used.all()
    assert keys.abs().max() < 10


def test_without_a_threshold_clean_keys_that_are_not_hit_stay_put() -> None:
    keys = drawn(2, 16, 3)
    keys[:, ::2] = 1e3
    average = averages(keys, 0)
    for step in range(300):
        moved(average, drawn(64, 2, 3, seed=step))
    assert (keys[:, ::2] == 1e3).all()
    assert keys[:, 1::2].abs().max() < 10


def test_smoothing_keeps_the_sum_and_leaves_no_zero() -> None:
    counts = torch.rand(5, 64, generator=seeded()) * (drawn(5, 64) > 0)
    found = smoothed(counts)
    torch.testing.assert_close(found.sum(1), counts.sum(1), rtol=1e-5, atol=0)
    assert (found > 0).all()


def test_released_replacement_leaves_sums_and_counts() -> None:
    keys = drawn(1, 4, 2)
    average = averages(keys, 1e9, released=True)
    heads = drawn(8, 1, 2, seed=1)
    moved(average, heads)
    assert average.counts.sum().item() == pytest.approx(0.8)
    assert average.sums is not None
    assert not torch.equal(average.sums, average.counts.unsqueeze(2) * keys)
    assert (keys[0].unsqueeze(1) == heads[:, 0]).all(2).any(1).all()  # each is one of the heads


def test_k_means_begins_at_the_means_of_clusters() -> None:
    heads = drawn(400, 2, 2)
    average = averages(torch.zeros(2, 5, 2), 0.1)
    average.begin(heads, k_means=True)
    codes = nearest(heads, average.keys).squeeze(2)
    error = (heads - average.keys[torch.arange(2), codes]).square().sum((0, 2))
    plain = averages(torch.zeros(2, 5, 2), 0.1)
    plain.begin(heads)
    rough = nearest(heads, plain.keys).squeeze(2)
    assert (error < 0.9 * (heads - plain.keys[torch.arange(2), rough]).square().sum((0, 2))).all()
    assert (average.counts.sum(1) == 400).all()


@pytest.mark.parametrize("mode", MODES)
def test_fitted_keys_are_those_of_the_seed_and_stand_for_the_features(mode: str) -> None:
    features = drawn(500, 8)
    one, other = books(4, 32, 2), books(4, 32, 2)
    facts = fit(one, features, keys=mode, key_epochs=30)
    assert facts == fit(other, features, keys=mode, key_epochs=30)
    assert torch.equal(one.keys, other.keys)
    assert 0 < facts["quantisation_error"] < 0.12  # of 32 keys in two dimensions
    assert facts["keys_used"] > 0.9


def test_facts_are_those_of_the_codes() -> None:
    features = drawn(500, 8)
    of_samples = books(4, 200, 2)
    facts = fit(of_samples, features, keys="samples")
    heads, codes = of_samples.heads(features), of_samples(features)
    off = (heads - of_samples.keys[torch.arange(4), codes]).square().sum()
    expected = off / (heads - heads.mean(0)).square().sum()
    assert facts["quantisation_error"] == pytest.approx(expected.item(), rel=1e-5)
    used = sum(len(codes[:, book].unique()) for book in range(4))
    assert facts["keys_used"] == pytest.approx(used / 800)


def test_facts_are_those_of_the_last_pass() -> None:
    one_place = torch.ones(64, 8)
    passes = [drawn(64, 8), drawn(64, 8, seed=1), one_place]
    config = CodebookConfig(codebooks=4, pairs=32, key_batch=64, key_epochs=3)
    facts = fit_keys(books(4, 32, 2), config, lambda epoch: [passes[epoch]], seeded())
    assert facts == {"quantisation_error": 0, "keys_used": 1 / 32}


def test_samples_are_drawn_from_the_whole_source() -> None:
    features = torch.arange(500.0).view(500, 1).expand(500, 4)
    of_samples = books(4, 4000, 1)
    fit(of_samples, features, keys="samples", key_epochs=0)
    assert (of_samples.keys == of_samples.keys.round()).all()
    counts = of_samples.keys.flatten().long().bincount(minlength=500)  # 32 expected of each
    assert ((counts - 32).square() / 32).sum().item() == pytest.approx(499, abs=5 * math.sqrt(998))
    assert not torch.equal(of_samples.keys[0], of_samples.keys[1])


@pytest.mark.parametrize("mode", ["clean", "kmeans"])
def test_without_a_pass_keys_stay_where_they_begin(mode: str) -> None:
    features, begun = drawn(500, 8), books(4, 32, 2)
    facts = fit(begun, features, keys=mode, key_epochs=0)
    average = KeyAverage(torch.zeros_like(begun.keys), 0.95, 0.2, False, seeded(1))
    average.begin(begun.heads(features[:64]), k_means=mode == "kmeans")
    assert torch.equal(begun.keys, average.keys)
    assert facts["quantisation_error"] > 0


def test_clean_keys_are_better_than_examples() -> None:
    features = drawn(4000, 16)
    found = {mode: fit(books(4, 32, 4), features, keys=mode) for mode in ("clean", "samples")}
    assert found["clean"]["quantisation_error"] < 0.9 * found["samples"]["quantisation_error"]


@pytest.mark.parametrize("mode", MODES)
def test_a_source_without_examples_is_refused(mode: str) -> None:
    nothing: Callable[[int], Iterable[Tensor]] = lambda epoch: iter(())  # noqa: E731
    config = CodebookConfig.model_validate({"keys": mode, "key_source": "some/where"})
    with pytest.raises(BadData, match="some/where"):
        fit_keys(books(4, 32, 2), config, nothing, seeded())
