"""A benchmark that was cut into tasks and stored (``clray data build``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import ByteSize, Field

from clray.errors import BadSpec
from clray.spec import PIN, SCENARIOS, Protocol, Resources, Scenario
from clray.store import Folder
from clray.streams import feature_links, reading
from clray.streams.benchmark import RESOURCES, BenchmarkConfig
from clray.streams.draws import Order, arrange
from clray.streams.manifest import Manifest, SplitName, pinned, read_manifest
from clray.streams.sharded import Content, Part, ShardedExamples
from clray.task import Stream, Task

WHERE = "benchmark.stream"


class Stored(BenchmarkConfig):
    """A stored stream; its tasks, splits and validation examples are those of its build.

    Read with the seed that it was built with, it gives the batches that the benchmark gives in
    memory, as long as a task fits in the shuffle window.
    """

    filled_in: ClassVar[frozenset[str]] = frozenset({"features", "codes"})

    stream: str = Field(min_length=1)
    """Where it lies: a folder, s3://… or gs://…; with #sha256=<hash>, only that content."""
    scenario: Scenario | Literal["as-stored"] = "as-stored"
    """What changes from task to task: class- and task-incremental streams serve for each other."""
    task_order: Order = "natural"
    """In which order the tasks come: natural (as stored), trial-seed, a seed, or a list of task
    indices (some may be left out). A task keeps its name, its examples and its output units."""
    shuffle_window: ByteSize = Field(ByteSize(64 << 20), gt=0)
    """What may be shuffled at once, such as 64 MiB: a task that fits is shuffled whole, a larger
    one block by block and then within a window. The order of batches depends on it."""
    tasks_at_once: int = Field(1, ge=1)
    """So many neighbouring tasks, in that order, are learned as one; all of them: the bound without
    any order."""
    features: str | None = Field(None, min_length=1)
    """Features of the stream that are read in place of its images; filled in by itself where the
    model is a frozen encoder that has computed them (clray data features). An address serves where
    they cannot be found: trials look beside the stream."""
    codes: str | None = Field(None, min_length=1)
    """Codes that are read in place of features; filled in by itself where the method has made them
    (clray data features --method)."""

    def check(self) -> int:
        """See ``BenchmarkConfig.check``."""
        manifest = read_manifest(self.stream, WHERE)
        self._scenario(manifest)
        if manifest.is_coded:
            accepted = "the stream of features that these codes are made of: trials find them"
            raise BadSpec(WHERE, self.stream, accepted)
        return len(self._groups(manifest, 0))

    def pinned(self) -> Self:
        """See ``BenchmarkConfig.pinned``."""
        manifest = read_manifest(self.stream, WHERE)
        found = {"stream": pinned(self.stream, manifest), "scenario": self._scenario(manifest)}
        return self.model_copy(update=found)

    def encoded(self, encoder: str | None) -> Self:
        """See ``BenchmarkConfig.encoded``; a pinned address was filled in before, maybe for another
        encoder, and so gives way.

        Raises:
            BadInput: an address that was written by hand, of other features.
        """
        manifest = read_manifest(self.stream, WHERE)
        found = None
        if encoder is not None and manifest.encoder is None and manifest.augment == "none":
            found = feature_links.find(self.stream, manifest, encoder, self.features)
        if self.features is not None and PIN not in self.features and found is None:
            accepted = "features of this stream, which must not augment, by the model's encoder, "
            raise BadSpec("benchmark.features", self.features, f"{accepted}which must be frozen")
        return self.model_copy(update={"features": found})

    def coded(self, coder: str | None) -> Self:
        """See ``BenchmarkConfig.coded``; as with features, a pinned address gives way.

        Raises:
            BadInput: an address that was written by hand, of other codes.
        """
        manifest, found = self._features(), None
        if coder is not None and manifest.encoder is not None:
            uri = self.features or self.stream
            found = feature_links.find(uri, manifest, coder, self.codes, "benchmark.codes")
        if self.codes is not None and PIN not in self.codes and found is None:
            accepted = "codes that this method, with these knobs, has made of the stream's features"
            raise BadSpec("benchmark.codes", self.codes, accepted)
        return self.model_copy(update={"codes": found})

    def encoder_key(self) -> str | None:
        """See ``BenchmarkConfig.encoder_key``."""
        manifest = self._features()
        return None if manifest.encoder is None else str(manifest.encoder["key"])

    def remark(self) -> str | None:
        """See ``BenchmarkConfig.remark``."""
        if (address := self.codes or self.features) is None:
            return None
        what = "codes" if self.codes else "features"
        name = (self._read_from().encoder or {})["name"]
        return f"reads stored {what} of {name}: {address.partition(PIN)[0]}"

    def check_protocol(self, protocol: Protocol) -> None:
        """Refuse another share of validation examples than the stream was built with.

        Raises:
            BadSpec: such a one.
        """
        share = read_manifest(self.stream, WHERE).validation_fraction
        if protocol.validation_fraction != share:
            accepted = f"{share:g}, with which this stream was built"
            raise BadSpec("protocol.validation_fraction", protocol.validation_fraction, accepted)

    def check_resources(self, resources: Resources) -> None:
        """Refuse to stream with a window that exceeds what a worker may keep.

        Raises:
            BadResources: such a one.
        """
        if resources.reading == "stream":
            manifest, cpu = self._read_from(), torch.device("cpu")
            reading.check(manifest, "stream", self._window(manifest), resources, cpu)

    @property
    def graded_together(self) -> bool:
        """See ``BenchmarkConfig.graded_together``."""
        return self._read_from().graded_together

    def build(
        self,
        split: Literal["validation", "test"],
        validation_fraction: float,
        seed: int,
        device: torch.device,
        resources: Resources = RESOURCES,
    ) -> Stream:
        """See ``BenchmarkConfig.build``."""
        manifest = self._read_from()
        address = self.codes or self.features or self.stream
        uri = Folder(address.partition(PIN)[0], WHERE).uri
        window = self._window(manifest)
        mode = reading.choose(manifest, resources, device)
        reading.check(manifest, mode, window, resources, device)
        reader = reading.reader(manifest, mode, resources, device)

        def examples(positions: Sequence[int], splits: tuple[SplitName, ...]) -> ShardedExamples:
            parts = tuple(
                Part(position, name, manifest.tasks[position].shards([name]))
                for position in positions
                for name in splits
            )
            return ShardedExamples(Content(uri, manifest, parts), reader, window)

        learned: tuple[SplitName, ...] = ("train",)
        if split == "test":
            learned = ("train", "validation")
        groups = self._groups(manifest, seed)
        every = [position for group in groups for position in group]
        together = examples(every, (split,)) if manifest.graded_together else None

        def task(index: int, group: list[int]) -> Task:
            stored = [manifest.tasks[position] for position in group]
            return Task(
                index,
                " + ".join(one.name for one in stored),
                tuple(sorted({cls for one in stored for cls in one.classes})),
                train=examples(group, learned),
                eval=together or examples(group, (split,)),
            )

        tasks = tuple(task(index, group) for index, group in enumerate(groups))
        return Stream(
            tasks=tasks,
            scenario=self._scenario(manifest),
            num_classes=manifest.num_classes,
            image_shape=manifest.shape,
            mean=manifest.mean,
            std=manifest.std,
            augment=manifest.augment,
            encoder=self.encoder_key(),
            coded_from=self._features().shape if manifest.is_coded else None,
            graded_together=manifest.graded_together,
        )

    def _read_from(self) -> Manifest:
        """The manifest of what is read: codes or features where there are any, else the stream."""
        if self.codes is not None:
            return read_manifest(self.codes, "benchmark.codes")
        return self._features()

    def _features(self) -> Manifest:
        """The manifest of the features where there are any, else of the stream."""
        if self.features is not None:
            return read_manifest(self.features, "benchmark.features")
        return read_manifest(self.stream, WHERE)

    def _scenario(self, manifest: Manifest) -> str:
        new = ("class-incremental", "task-incremental")
        accepted = new if manifest.scenario in new else (manifest.scenario,)
        if self.scenario == "as-stored":
            return manifest.scenario
        if self.scenario not in accepted:
            where = f"benchmark.scenario, of {self.stream}"
            raise BadSpec(where, self.scenario, [name for name in SCENARIOS if name in accepted])
        return self.scenario

    def _window(self, manifest: Manifest) -> int:
        return max(1, int(self.shuffle_window) // manifest.row_bytes)

    def _groups(self, manifest: Manifest, seed: int) -> list[list[int]]:
        """The positions of the stored tasks that make each task."""
        order = arrange(self.task_order, len(manifest.tasks), seed, "benchmark.task_order")
        size = self.tasks_at_once
        if len(order) % size:
            divisors = [n for n in range(1, len(order) + 1) if len(order) % n == 0]
            accepted = f"a divisor of the {len(order)} tasks: {', '.join(map(str, divisors))}"
            raise BadSpec("benchmark.tasks_at_once", size, accepted)
        return [order[i : i + size] for i in range(0, len(order), size)]
