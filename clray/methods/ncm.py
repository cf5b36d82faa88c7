"""Nearest class mean: the class whose mean of features is nearest.

Mensink, Verbeek, Perronnin & Csurka 2013 (TPAMI 35(11), doi 10.1109/TPAMI.2013.83), with the metric
left as it is instead of learned; on cosines, the classifier of iCaRL (Rebuffi et al. 2017, arXiv
1611.07725), with the means of all examples instead of those of its memory.

Logits are minus the squared Euclidean distance, or the cosine, less the best one's; -inf for
classes that were not seen. ``cosine`` scales features to length 1 before they are averaged, as
iCaRL does. There is nothing to tune but the metric: the result depends neither on the order of
examples (to rounding, in float64), nor on the number of epochs, nor on where tasks begin.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from clray.learner import MethodConfig, Setup
from clray.models.feature_statistics import ClassMeans, OnePassLearner, as_logits, num_features
from clray.task import Task

Metric = Literal["euclidean", "cosine"]


class Config(MethodConfig):
    """Knobs of the nearest class mean."""

    metric: Metric = "euclidean"
    """What near means: a small Euclidean distance, or a large cosine."""


class NearestMean(ClassMeans):
    """The means of all classes, in place of a model's head.

    Args:
        num_features: D.
        num_classes: C.
        metric: see ``Config``.
    """

    def __init__(self, num_features: int, num_classes: int, metric: Metric) -> None:
        super().__init__(num_features, num_classes)
        self.cosine = metric == "cosine"

    def add(self, features: Tensor, y: Tensor) -> None:
        """Count features [B, D] with labels int64 [B]."""
        super().add(self._scaled(features), y)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [B, C] for features [B, D]."""
        x, means = self._scaled(features), self.means
        if self.cosine:
            return as_logits(x @ F.normalize(means).T, self.seen)
        # The squares of x are the same for all classes.
        return as_logits(2 * x @ means.T - means.square().sum(1), self.seen)

    def _scaled(self, features: Tensor) -> Tensor:
        """The features in float64, at length 1 where only angles count."""
        x = features.double()
        return F.normalize(x) if self.cosine else x


class Ncm(OnePassLearner):
    """Averages the features of each class."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self.means = NearestMean(num_features(setup), setup.num_classes, config.metric)
        super().__init__(config, setup, self.means)

    def count(self, features: Tensor, y: Tensor, task: Task) -> None:
        """Add features float32 [B, D] of classes int64 [B] to the means."""
        self.means.add(self.distributed.gather(features), self.distributed.gather(y))
