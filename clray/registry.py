"""Methods, benchmarks and models, found by the name of their file: there is no table to edit.

A plain name is a module of clray itself (``er`` is ``clray/methods/er.py``, ``split-digits`` is
``clray/streams/benchmarks/split_digits.py``); a name with a dot is a module of yours, importable
from where you stand (``my_lab.fancy``). What follows a slash is a variant (``timm/resnet18``).
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clray.errors import BadSpec, UnknownName
from clray.learner import Learner, MethodConfig
from clray.models.classifier import ModelConfig
from clray.parsing import parse
from clray.spec import Change, Component, Tag, TrialSpec
from clray.streams.benchmark import BenchmarkConfig

Kind = Literal["method", "benchmark", "model"]

_PACKAGES: dict[Kind, str] = {
    "method": "clray.methods",
    "benchmark": "clray.streams.benchmarks",
    "model": "clray.models",
}
_CONFIGS: dict[Kind, type[BaseModel]] = {
    "method": MethodConfig,
    "benchmark": BenchmarkConfig,
    "model": ModelConfig,
}


@dataclass(frozen=True)
class Found:
    """A component's file.

    Attributes:
        name: as a spec writes it, without the variant.
        variant: what followed the slash, or "".
        module: the imported file.
        config: its Config class.
    """

    name: str
    variant: str
    module: ModuleType
    config: type[BaseModel]

    @property
    def summary(self) -> str:
        """The first line of the file's docstring."""
        return (self.module.__doc__ or "").strip().partition("\n")[0]

    @property
    def learner(self) -> type[Learner]:
        """The method's Learner; a method's file defines exactly one."""
        learner: type[Learner] = next(_own_classes(self.module, Learner))
        return learner


def names(kind: Kind) -> list[str]:
    """The names of clray's own components of a kind, sorted."""
    package = importlib.import_module(_PACKAGES[kind])
    stems = [module.name for module in pkgutil.iter_modules(package.__path__)]
    return sorted(
        stem.replace("_", "-") if kind == "benchmark" else stem
        for stem in stems
        if _config_of(importlib.import_module(f"{package.__name__}.{stem}"), kind) is not None
    )


def find(kind: Kind, name: str) -> Found:
    """The component of that name.

    Raises:
        UnknownName: there is none, or the module named does not define what it must.
    """
    stem, _, variant = name.partition("/")
    package = _PACKAGES[kind]
    path = stem if "." in stem else f"{package}.{stem.replace('-', '_')}"
    if "." in stem and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if not all(part.isidentifier() for part in path.split(".")) or not _exists(path):
        raise UnknownName(kind, name, names(kind))
    module = importlib.import_module(path)
    config = _config_of(module, kind)
    if config is None:
        if "." in stem:
            accepted = f"a module with a class Config({_CONFIGS[kind].__name__})"
            raise UnknownName(kind, name, accepted)
        raise UnknownName(kind, name, names(kind))
    if kind == "method" and len(list(_own_classes(module, Learner))) != 1:
        raise UnknownName(kind, name, "a module that defines one subclass of Learner")
    return Found(stem, variant, module, config)


def plain_method() -> str:
    """The name of the method that is plain fine-tuning."""
    return next(name for name in names("method") if find("method", name).learner.plain)


def configure(kind: Kind, component: Component) -> Any:
    """The component's Config with the spec's knobs.

    Raises:
        UnknownName, BadSpec: no such component, or a knob that it refuses.
    """
    where = f"{kind} {component.name}"
    return parse(find(kind, component.name).config, component.knobs, where)


def complete(spec: TrialSpec) -> TrialSpec:
    """``spec`` with every knob filled in and checked against the components it names.

    Raises:
        BadInput: anything that would make the trial fail, as far as can be told without data.
    """
    method = find("method", spec.method.name)
    model = find("model", spec.model.name)
    configs = {k: configure(k, getattr(spec, k)) for k in _PACKAGES}
    configs["model"].check(model.variant)
    encoder = configs["model"].encoder_key(model.variant)
    benchmark: BenchmarkConfig = configs["benchmark"].pinned().encoded(encoder)
    configs["benchmark"] = benchmark
    learner = method.learner
    if benchmark.scenario not in learner.scenarios:
        where = f"benchmark {spec.benchmark.name}: scenario, for method {spec.method.name}"
        raise BadSpec(where, benchmark.scenario, learner.scenarios)
    for name in (spec.method.name, *(change.method.name for change in spec.changes)):
        _check_transformer(spec, configs["model"], benchmark, name)
        _check_encoder(spec.model, configs["model"], name)
    if spec.protocol.first_learns == "head" and not learner.learns_head_alone:
        where = f"protocol.first_learns, for method {spec.method.name}"
        raise BadSpec(where, "head", "all: this method cannot keep the encoder still")
    if learner.uses_memory and spec.protocol.memory == 0:
        where = f"protocol.memory, for method {spec.method.name}"
        raise BadSpec(where, 0, "1 or more: this method replays examples")
    if spec.optimizer.name != "sgd" and spec.optimizer.momentum:
        raise BadSpec("optimizer.momentum", spec.optimizer.momentum, "0, except with name: sgd")
    _check_tasks(spec, benchmark.check())
    computed_by = benchmark.encoder_key()
    if computed_by is not None:
        configs["model"].check_features(model.variant, computed_by)
    configs["method"] = configs["method"].pinned(computed_by)
    coder = learner.coder(configs["method"])
    configs["benchmark"] = benchmark.coded(None if coder is None else coder.encoder_key(""))
    benchmark.check_protocol(spec.protocol)
    filled: dict[str, Component] = {
        kind: Component(name=getattr(spec, kind).name, **config.model_dump(mode="json"))
        for kind, config in configs.items()
    }
    changes = tuple(_completed(change, benchmark.scenario, computed_by) for change in spec.changes)
    for before, after in pairwise((spec.method, *(change.method for change in changes))):
        learners = [find("method", method.name).learner for method in (before, after)]
        if learners[0] is not learners[1] and not learners[0].hands_over:
            accepted = f"{before.name}: no other method can go on with its network"
            raise BadSpec("changes: method", after.name, accepted)
    return spec.model_copy(update={**filled, "changes": changes})


def _check_encoder(model: Component, config: ModelConfig, method: str) -> None:
    """Refuse an encoder that learns, for a method that learns from features of a frozen one.

    Raises:
        BadSpec: such a one.
    """
    if find("method", method).learner.frozen_encoder and config.learns_encoder:
        where = f"model {model.name}, for method {method}"
        accepted = "a frozen encoder, such as timm/resnet18 with frozen: true and weights; or mlp "
        accepted += "with hidden: [] for the inputs themselves"
        raise BadSpec(where, model.knobs or "an encoder that learns", accepted)


def _check_transformer(
    spec: TrialSpec, model: ModelConfig, benchmark: BenchmarkConfig, method: str
) -> None:
    """Refuse other networks, and stored features, for a method that reaches inside a vision
    transformer.

    Raises:
        BadSpec: such ones.
    """
    if not find("method", method).learner.vision_transformer:
        return
    if not model.is_vision_transformer(find("model", spec.model.name).variant):
        accepted = "a vision transformer of timm's, such as timm/vit_base_patch16_224"
        raise BadSpec(f"model, for method {method}", spec.model.name, accepted)
    if benchmark.encoder_key() is not None:
        accepted = "one of images: the method reaches inside the encoder"
        raise BadSpec(f"benchmark, for method {method}", "one of features", accepted)


def _completed(change: Change, scenario: str, encoder: str | None) -> Change:
    """``change`` with its method's knobs filled in and checked."""
    if scenario not in find("method", change.method.name).learner.scenarios:
        accepted = "a method that serves this scenario"
        raise BadSpec(f"changes: method {change.method.name}: {scenario}", scenario, accepted)
    config = configure("method", change.method).pinned(encoder)
    knobs = config.model_dump(mode="json")
    return change.model_copy(update={"method": Component(name=change.method.name, **knobs)})


def _check_tasks(spec: TrialSpec, num_tasks: int) -> None:
    """Refuse positions beyond the stream's end.

    Raises:
        BadSpec: one of tasks, until or changes.
    """
    if spec.tasks is not None and max(spec.tasks) >= num_tasks:
        accepted = f"positions of tasks from 0 to {num_tasks - 1}"
        raise BadSpec("tasks", max(spec.tasks), accepted)
    length = len(spec.tasks) if spec.tasks is not None else num_tasks
    if spec.until is not None and spec.until > length:
        raise BadSpec("until", spec.until, f"at most {length}, the length of the stream")
    if spec.changes and spec.changes[-1].task >= length:
        accepted = f"positions of tasks from 1 to {length - 1}"
        raise BadSpec("changes: task", spec.changes[-1].task, accepted)


def tag(spec: TrialSpec, path: str) -> str | None:
    """What the knob at a dotted path is for: plasticity, stability, or None (set once); of one that
    is for both, what comes first.

    Raises:
        UnknownName: the section's Config has no such knob.
    """
    return next(iter(tags(spec, path)), None)


def tags(spec: TrialSpec, path: str) -> list[str]:
    """All that the knob at a dotted path is for.

    Raises:
        UnknownName: the section's Config has no such knob.
    """
    return [mark.kind for mark in _field(spec, path).metadata if isinstance(mark, Tag)]


def annotation(spec: TrialSpec, path: str) -> Any:
    """The declared type of the knob at a dotted path, such as ``method.strength``.

    Raises:
        UnknownName: the section's Config has no such knob.
    """
    return _field(spec, path).annotation


def _field(spec: TrialSpec, path: str) -> FieldInfo:
    section, _, knob = path.partition(".")
    if section in _PACKAGES:
        fields = find(section, getattr(spec, section).name).config.model_fields
    else:
        fields = type(getattr(spec, section)).model_fields
    if knob not in fields:
        raise UnknownName(f"{section} knob", knob, fields)
    return fields[knob]


def _exists(path: str) -> bool:
    try:
        return importlib.util.find_spec(path) is not None
    except ModuleNotFoundError:
        return False


def _config_of(module: ModuleType, kind: Kind) -> type[BaseModel] | None:
    config = vars(module).get("Config")
    fits = inspect.isclass(config) and issubclass(config, _CONFIGS[kind])
    return config if fits else None


def _own_classes(module: ModuleType, ancestor: type[Any]) -> Any:
    return (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, ancestor)
        and value.__module__ == module.__name__
    )
