"""Streams whose tasks are different datasets of texts."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from clray.errors import BadSpec
from clray.spec import PIN
from clray.streams import joined, tokens
from clray.streams.dataset import Source, TextFormat
from clray.streams.scenarios import WideScenario
from clray.streams.several import Several, as_sum

IMAGES = ("image_size", "fit", "channels", "image_column", "label_column", "mean", "std", "augment")
"""Knobs of images, which texts have no use for."""

Root = Annotated[
    str,
    Field(
        min_length=1,
        description="Folder that those of the datasets lie in; s3:// and gs:// too; $VARIABLES and "
        "~ are expanded.",
    ),
]
FolderNames = Annotated[
    str,
    BeforeValidator(as_sum),
    Field(
        min_length=1,
        description="Folders of the datasets below root, one for each task: a list of names, or "
        "first + second + third. In each lie train*.csv and test*.csv, or Parquet files.",
    ),
]
PerClass = Annotated[int | None, Field(ge=1)]


class TextSets(Several):
    """Several datasets of texts in a row, each a task that is named after its folder.

    An example is uint8 [3, max_tokens, 1], the bytes of its token ids (``clray.streams.tokens``).
    Which examples are drawn does not depend on a trial's seed; which of them are held out does.
    """

    scenario: WideScenario = "task-incremental"
    dataset: FolderNames
    root: Root = "."
    tokenizer: str = Field("bert-base-uncased", min_length=1)
    """The encoder's own tokenizer: a folder, or a name on the Hugging Face hub. The hash of its
    files is added by itself, and a trial refuses others."""
    max_tokens: int = Field(256, ge=1, le=65_536)
    """Tokens of each example, special ones among them: longer texts are cut off, shorter ones
    padded."""
    header: bool = False
    """Whether CSV files begin with the names of columns; without them they are called 0, 1, …"""
    columns: dict[str, tuple[str, ...]] = {}
    """For datasets that need it: the column of labels, and after it those of texts (none: all
    others), which a space joins. Without it labels stand in the column label, or in the first one
    of CSV files without a header."""
    train_per_class: PerClass = None
    """Training examples of each class that are drawn at most, before any is held out; none: all."""
    test_per_class: PerClass = None
    """Test examples of each class that are drawn at most; none: all."""
    subset_seed: int = Field(0, ge=0)
    """Seed of these draws, the same for all trials."""

    def check(self) -> int:
        """See ``BenchmarkConfig.check``."""
        for knob in IMAGES:
            if getattr(self, knob) != type(self).model_fields[knob].default:
                accepted = "nothing: this benchmark has texts, not images"
                raise BadSpec(f"benchmark.{knob}", getattr(self, knob), accepted)
        for name, chosen in self.columns.items():
            if name not in self._names:
                raise BadSpec("benchmark.columns", name, self._names)
            if not chosen or len(set(chosen)) < len(chosen):
                accepted = "different columns: that of the labels, and maybe those of texts"
                raise BadSpec(f"benchmark.columns: {name}", list(chosen), accepted)
        return super().check()

    def pinned(self) -> Self:
        """See ``BenchmarkConfig.pinned``: the tokenizer by the hash of its files."""
        self.check()
        content = tokens.content_hash(self.tokenizer)
        tokenizer = f"{self.tokenizer.partition(PIN)[0]}{PIN}{content}"
        return self.model_copy(update={"tokenizer": tokenizer})

    @property
    def _source(self) -> Source:
        root, mark, options = self.root.partition("?")  # such as ?region=… of a bucket
        folders = {name: f"{root.rstrip('/')}/{name}{mark}{options}" for name in self._names}
        style = TextFormat(
            self.tokenizer,
            self.max_tokens,
            self.header,
            tuple((folders[name], chosen) for name, chosen in sorted(self.columns.items())),
            self.train_per_class,
            self.test_per_class,
            self.subset_seed,
        )
        dataset = joined.PLUS.join(f"text:{folder}" for folder in folders.values())
        return Source(dataset, texts=style)
