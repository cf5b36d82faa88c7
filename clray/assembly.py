"""What a trial is made of, built from its spec: the stream, and the learner with its network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial

import torch
from torch import nn

from clray import registry
from clray.distributed import Distributed
from clray.errors import BadSpec
from clray.learner import Learner, Setup
from clray.spec import Change, Component, Optimizer, Resources, TrialSpec, derive_seed
from clray.streams.augment import Augment
from clray.streams.benchmark import BenchmarkConfig
from clray.streams.examples import cumulate
from clray.streams.transforms import Prepare
from clray.task import Stream


def build_stream(spec: TrialSpec, device: torch.device, resources: Resources) -> Stream:
    """The stream that the spec's method learns, on the device.

    Raises:
        BadInput: data that are missing, damaged or do not fit the benchmark's knobs.
    """
    benchmark: BenchmarkConfig = registry.configure("benchmark", spec.benchmark)
    fraction = spec.protocol.validation_fraction
    stream = benchmark.build(spec.split, fraction, spec.seed, device, resources)
    if spec.tasks is not None:
        stream = stream.only(spec.tasks)
    learner = registry.find("method", spec.method.name).learner
    return cumulate(stream) if learner.cumulative else stream


def build_learner(spec: TrialSpec, stream: Stream, device: torch.device) -> Learner:
    """The learner, which has seen nothing yet; the same on every worker."""
    torch.manual_seed(derive_seed(spec.seed, "model"))
    found = registry.find("model", spec.model.name)
    config = registry.configure("model", spec.model)
    build = config.build if stream.encoder is None else config.build_on_features
    model = build(found.variant, stream.image_shape, stream.num_classes).to(device)
    if Distributed().world > 1:
        model = _synchronise_norms(model, device)
    generator = torch.Generator().manual_seed(derive_seed(spec.seed, "learner"))
    setup = Setup(
        model=model,
        optimizer=partial(build_optimizer, spec.optimizer),
        clip_norm=spec.optimizer.clip_norm,
        scenario=stream.scenario,
        num_classes=stream.num_classes,
        num_tasks=len(stream.tasks),
        num_examples=sum(len(task.train) for task in stream.tasks),
        largest_task=max(len(task.classes) for task in stream.tasks),
        image_shape=stream.image_shape,
        epochs=spec.protocol.epochs,
        batch_size=spec.protocol.batch_size,
        memory=spec.protocol.memory,
        prepare=Prepare(stream.mean, stream.std),
        augment=Augment(stream.augment, generator),
        generator=generator,
        distributed=Distributed(),
        device=device,
        coded_from=stream.coded_from,
        updates=spec.protocol.updates,
        first_updates=spec.protocol.first_updates,
        pretrained=config.is_pretrained,
    )
    torch.manual_seed(derive_seed(spec.seed, "training"))
    return _learner(spec.method, setup)


def change(learner: Learner, told: Change) -> Learner:
    """The learner as it goes on from a task on: the same one with other knobs, or a new one of
    another method around its network."""
    setup = dataclasses.replace(
        learner.setup,
        optimizer=partial(build_optimizer, told.optimizer),
        clip_norm=told.optimizer.clip_norm,
        epochs=told.epochs,
        updates=told.updates,
        batch_size=told.batch_size,
    )
    if registry.find("method", told.method.name).learner is not type(learner):
        other = _learner(told.method, setup)
        other.rivals, other.all_rivals = learner.rivals, learner.all_rivals
        return other
    learner.config, learner.setup = registry.configure("method", told.method), setup
    for name, value in list(vars(learner).items()):
        if isinstance(value, torch.optim.Optimizer):
            setattr(learner, name, _retuned(value, told.optimizer))
    return learner


def _learner(method: Component, setup: Setup) -> Learner:
    return registry.find("method", method.name).learner(registry.configure("method", method), setup)


def _retuned(old: torch.optim.Optimizer, spec: Optimizer) -> torch.optim.Optimizer:
    """The optimizer with other knobs; its state stays where the rule does."""
    parameters = [p for group in old.param_groups for p in group["params"]]
    new = build_optimizer(spec, parameters)
    if type(new) is not type(old):
        return new
    knobs = {name: value for name, value in new.param_groups[0].items() if name != "params"}
    for group in old.param_groups:
        group.update(knobs)
    return old


def build_optimizer(spec: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of the spec over the parameters that require gradients."""
    trained = [p for p in parameters if p.requires_grad]
    if spec.name == "sgd":
        return torch.optim.SGD(
            trained, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay
        )
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(trained, lr=spec.lr, weight_decay=spec.weight_decay)


def _synchronise_norms(model: nn.Module, device: torch.device) -> nn.Module:
    """Batch statistics over all workers' examples, which torch offers on GPUs only.

    Raises:
        BadSpec: on CPUs, for a model with batch normalisation.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    if not any(isinstance(m, batch_norm) for m in model.modules()):
        return model
    if device.type == "cpu":
        accepted = "1 on CPUs, for a model with batch normalisation: its statistics would differ"
        raise BadSpec("resources.workers", Distributed().world, accepted)
    synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return synchronised
