"""Supermask subnetworks, not exclusive: a mask for each task, then all of its weights.

Yadav & Bansal 2023 (arXiv 2210.10209) compare it with its exclusive variant (``exssnet``): where
masks overlap, a later task changes the weights that earlier ones rely on, and they are forgotten.
On the first task both are the same.
"""

from __future__ import annotations

from clray.models.supermask_config import SubnetworkConfig
from clray.models.supermask_learner import SubnetworkLearner


class Config(SubnetworkConfig):
    """Knobs of supermask subnetwork training."""


class SSNeT(SubnetworkLearner):
    """Searches a mask for each task, and trains its weights, whosever they were before."""

    exclusive = False
