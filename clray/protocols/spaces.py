"""Whether a search space suits its method, and its starting points the space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from clray import registry
from clray.errors import BadSpec
from clray.job import SamplerName
from clray.parsing import parse
from clray.plan import put_over
from clray.samplers import distribution, levels
from clray.space import Dimension, Point, Scalar, SearchSpace, by_path
from clray.spec import TrialSpec


def check_points(space: SearchSpace, points: Sequence[Point], where: str) -> None:
    """Refuse starting points that the search itself could not propose.

    Args:
        space: what is searched.
        points: to try first.
        where: names their field in an error.

    Raises:
        BadSpec: an unknown knob, or a value outside of what is searched.
    """
    for point in points:
        if not by_path(point):
            raise BadSpec(where, point, "values of one knob or more")
        for path, value in by_path(point).items():
            if path not in space.dimensions:
                raise BadSpec(where, path, space.dimensions)
            space.check_inside(path, value, f"{where}: {path}")
            _check_value(space, path, value, f"{where}: {path}")


def _check_value(space: SearchSpace, path: str, value: Scalar | None, where: str) -> None:
    dimension = space.dimensions[path]
    if path in space.fixed and value != dimension.fixed:
        raise BadSpec(where, value, f"{dimension.fixed!r}: this knob is not searched")
    if dimension.range is not None and dimension.step is not None:
        low, high = dimension.range
        steps = (float(value or 0) - low) / dimension.step
        if not math.isclose(steps, round(steps), abs_tol=1e-9):
            accepted = f"a number from {low:g} to {high:g} in steps of {dimension.step:g}"
            raise BadSpec(where, value, accepted)


def check_space(space: SearchSpace, base: TrialSpec, sampler: SamplerName) -> None:
    """Refuse what some proposal would be refused for later.

    Args:
        space: what is searched.
        base: the complete spec that proposals are put over.
        sampler: that proposes.

    Raises:
        BadInput: a knob that there is not, a dimension that does not suit its knob or the sampler,
            or two values of a section that exclude each other.
    """
    for path in space.dimensions:
        if path.startswith("benchmark."):
            accepted = "knobs of method, model, optimizer and protocol: all methods run on the same"
            raise BadSpec("space", path, f"{accepted} benchmark")
    for path, dimension in space.searched.items():
        drawn = distribution(dimension, registry.annotation(base, path), path)
        if sampler == "grid":
            levels(drawn, path)
    ends = {path: _ends(dimension) for path, dimension in space.searched.items()}
    plain = base.model_dump(mode="json")
    for paths in itertools.chain(((path,) for path in ends), itertools.combinations(ends, 2)):
        if len({path.partition(".")[0] for path in paths}) == 1:
            for values in itertools.product(*(ends[path] for path in paths)):
                tried = put_over(plain, dict(zip(paths, values, strict=True)))
                registry.complete(parse(TrialSpec, tried, "space"))


def _ends(dimension: Dimension) -> tuple[Scalar | None, ...]:
    if dimension.choice is not None:
        return dimension.choice
    return tuple(int(end) if end.is_integer() else end for end in dimension.range or ())
