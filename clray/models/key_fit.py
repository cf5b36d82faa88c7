"""Where the keys of codebooks are put: moving averages of the unlabelled heads nearest to them.

The key initialisation of the discrete key-value bottleneck (Träuble et al. 2023, arXiv 2207.11240),
after the released code. For each batch, with heads h assigned to the keys as they were before it,

    n <- decay * n + (1 - decay) * number of heads assigned,
    S <- decay * S + (1 - decay) * their sum,          key <- S / n,

and a key with n below a threshold is put onto a random head of the batch. Keys then stay for good.

``released``: S begins as the keys that are there and n at 0; n is smoothed after Laplace before it
divides; a key that is put elsewhere keeps its S and n. The first hit thus flings a key away, and
what it began as fades over hundreds of batches. ``clean``, our default, differs: keys begin as
random heads of the first batch; a key that is put somewhere gets n = the threshold (or a tiny one,
if that is 0) and S = n * key. As S = n * key then always holds, S is not kept: a hit moves a key by

    key <- key + (1 - decay) / n * sum of (h - key),

and one without a hit stays exactly where it is. Nothing is smoothed: after a hit n is at least
1 - decay, and smoothing, which is there for n near 0, would shorten keys by up to 1e-5 / n.

``kmeans`` begins with Lloyd's algorithm on the first batch, from random heads, and goes on as
``clean``; the released code leaves S at zero there, which throws the result away. ``samples`` draws
each key uniformly from the source, and moves none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from clray.errors import BadData
from clray.models.codebook_config import CodebookConfig
from clray.models.codebooks import Codebooks, nearest
from clray.models.value_table import add_rows

SMOOTHING = 1e-5
"""Added to each count by the released code; in clean mode, the first count without a threshold."""
ROUNDS = 10
"""Of Lloyd's algorithm, as released."""
AT_ONCE = 1 << 16
"""Keys that are put elsewhere at once: at first nearly all are, and twice as fast in such parts."""

Batches = Callable[[int], Iterable[Tensor]]


@torch.no_grad()
def fit_keys(
    codebooks: Codebooks, config: CodebookConfig, batches: Batches, generator: torch.Generator
) -> dict[str, float]:
    """Put the keys of codebooks where a source's features are, in place.

    Args:
        codebooks: on the device; ``released`` begins with their keys.
        config: how.
        batches: those of a pass by its number, features [b, D] on the device; where no pass moves
            keys, and to draw samples, pass 0 is read.
        generator: chooses examples, on the CPU.

    Returns:
        Of the last pass, with each batch's heads assigned to the keys as it met them:
        ``quantisation_error``, the squared distances to the keys over those to the codebook's mean
        head, and ``keys_used``, the share of keys that were nearest to any.

    Raises:
        BadData: a source without examples.
    """
    average = KeyAverage(
        codebooks.keys, config.key_decay, config.dead_below, config.keys == "released", generator
    )
    moving = 0 if config.keys == "samples" else config.key_epochs
    begun = config.keys == "released"
    if config.keys == "samples":
        begun = _draw(average, codebooks, batches(0))
    measured = Measured(codebooks.keys)
    for epoch in range(max(1, moving)):
        for features in batches(epoch):
            heads = codebooks.heads(features)
            if not begun:
                average.begin(heads, k_means=config.keys == "kmeans")
                begun = True
            codes = nearest(heads, codebooks.keys).squeeze(2)
            if epoch >= moving - 1:
                measured.add(heads, codes)
            if moving:
                average.update(heads, codes)
    if not measured.examples:
        raise BadData("method.key_source", config.key_source, "a source that has examples")
    return measured.facts()


class KeyAverage:
    """Keys as moving averages of the heads that are assigned to them.

    Args:
        keys: float32 [C, K, d_k], moved in place.
        decay: of earlier batches.
        dead_below: the count below which a key is put onto a random head.
        released: as the released code has it, see above.
        generator: chooses heads, on the CPU.

    Attributes:
        counts: float32 [C, K], n above.
    """

    def __init__(
        self,
        keys: Tensor,
        decay: float,
        dead_below: float,
        released: bool,
        generator: torch.Generator,
    ) -> None:
        self.keys, self.decay, self.dead_below = keys, decay, dead_below
        self.generator = generator
        self.counts = torch.zeros(keys.shape[:2], device=keys.device)
        self.sums = keys.clone() if released else None

    def begin(self, heads: Tensor, k_means: bool = False) -> None:
        """Put all keys onto random ones of the heads [b, C, d_k]; then, if so, by k-means, where a
        key that is nearest to none stays."""
        self.put(heads, torch.arange(self.counts.numel(), device=heads.device))
        for _ in range(ROUNDS if k_means else 0):
            rows = self._rows(nearest(heads, self.keys).squeeze(2))
            sums = torch.zeros_like(self.keys)
            add_rows(sums.flatten(0, 1), rows, heads.transpose(0, 1))
            self.counts.zero_()
            self._count(rows, 1)
            hit = (self.counts > 0).unsqueeze(2)
            self.keys.copy_(torch.where(hit, sums / self.counts.unsqueeze(2), self.keys))

    def put(self, heads: Tensor, cells: Tensor) -> None:
        """Put some keys onto heads [b, C, d_k] of their codebooks, drawn with replacement.

        Args:
            heads: of a batch.
            cells: int64 [n], the keys' numbers c * K + j, each once.
        """
        batch, num_codebooks = heads.shape[:2]
        drawn = torch.randint(batch, (len(cells),), generator=self.generator).to(heads.device)
        drawn = drawn * num_codebooks + cells // self.keys.shape[1]
        flat, source = self._flat_keys(), heads.flatten(0, 1)
        for some, chosen in zip(
            torch.split(cells, AT_ONCE), torch.split(drawn, AT_ONCE), strict=True
        ):
            flat.index_copy_(0, some, source.index_select(0, chosen))
        if self.sums is None:
            self.counts.view(-1).index_fill_(0, cells, self.dead_below or SMOOTHING)

    def update(self, heads: Tensor, codes: Tensor) -> None:
        """Move the keys by one batch.

        Args:
            heads: float32 [b, C, d_k].
            codes: int64 [b, C], of the nearest keys.
        """
        rows, share = self._rows(codes), 1 - self.decay
        heads_by_book = heads.transpose(0, 1)
        self.counts *= self.decay
        self._count(rows, share)
        if self.sums is None:
            flat = self._flat_keys()
            cells = rows.flatten()
            weights = share / self.counts.view(-1).index_select(0, cells)
            moves = heads_by_book - flat.index_select(0, cells).view(heads_by_book.shape)
            add_rows(flat, rows, moves.mul_(weights.view(rows.shape).unsqueeze(2)))
        else:
            self.sums *= self.decay
            add_rows(self.sums.flatten(0, 1), rows, heads_by_book * share)
            torch.div(self.sums, smoothed(self.counts).unsqueeze(2), out=self.keys)
        if self.dead_below > 0:
            dead = (self.counts.view(-1) < self.dead_below).nonzero().squeeze(1)
            self.put(heads, dead)

    def _flat_keys(self) -> Tensor:
        """The keys, [C * K, d_k], not copied."""
        return self.keys.view(-1, self.keys.shape[2])

    def _rows(self, codes: Tensor) -> Tensor:
        """The keys' numbers c * K + j, int64 [C, b], for codes [b, C]."""
        num_codebooks, num_pairs = self.counts.shape
        first = torch.arange(num_codebooks, device=codes.device) * num_pairs
        return codes.t() + first.unsqueeze(1)

    def _count(self, rows: Tensor, weight: float) -> None:
        """Add a weight to the count of each key that is named."""
        ones = self.counts.new_full((1,), weight).expand(*rows.shape, 1)
        add_rows(self.counts.view(-1, 1), rows, ones)


def smoothed(counts: Tensor) -> Tensor:
    """Counts [C, K] after Laplace: none is zero, and each codebook's sum stays what it is."""
    total = counts.sum(1, keepdim=True)
    return (counts + SMOOTHING) / (total + counts.shape[1] * SMOOTHING) * total


class Measured:
    """How well keys stand for the heads of a pass.

    Args:
        keys: float32 [C, K, d_k], as they are whenever heads are added.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.examples = keys, 0
        wide = {"dtype": torch.float64, "device": keys.device}
        self.used = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device)
        self.error = torch.zeros((), **wide)  # type: ignore[call-overload]
        self.squares = torch.zeros((), **wide)  # type: ignore[call-overload]
        self.sums = torch.zeros(keys.shape[0], keys.shape[2], **wide)  # type: ignore[call-overload]

    def add(self, heads: Tensor, codes: Tensor) -> None:
        """Take in heads [b, C, d_k] and the codes [b, C] of their nearest keys."""
        books = torch.arange(codes.shape[1], device=codes.device)
        self.examples += len(heads)
        self.used[books, codes] = True
        self.error += (heads - self.keys[books, codes]).square().sum(dtype=torch.float64)
        self.squares += heads.square().sum(dtype=torch.float64)
        self.sums += heads.sum(0, dtype=torch.float64)

    def facts(self) -> dict[str, float]:
        """See ``fit_keys``; heads that are all the same are stood for without an error."""
        around = float(self.squares - self.sums.square().sum() / self.examples)
        error = float(self.error) / around if around > 0 else 0.0
        return {"quantisation_error": error, "keys_used": float(self.used.float().mean())}


def _draw(average: KeyAverage, codebooks: Codebooks, batches: Iterable[Tensor]) -> bool:
    """Put each key onto an example of a pass, any with the same probability; whether there are any.

    Of n examples so far, a batch of b takes each key with the probability b / n.
    """
    seen = 0
    for features in batches:
        heads = codebooks.heads(features)
        seen += len(heads)
        drawn = torch.rand(average.counts.numel(), generator=average.generator)
        taken = (drawn < len(heads) / seen).nonzero().squeeze(1).to(heads.device)
        average.put(heads, taken)
    return seen > 0
