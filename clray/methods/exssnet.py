"""Exclusive supermask subnetworks: a mask for each task, then those of its weights still free.

Yadav & Bansal 2023 (Findings of ACL, arXiv 2210.10209). A task first searches a mask over the
weights as they are, those that earlier tasks trained among them; then it trains the weights of the
mask that no earlier mask contains. So no task's answers ever change, and later tasks build on
earlier ones. ``transfer: knn-best`` is the paper's KNN-based knowledge transfer (KKT): the search
begins from the scores of the task whose features suit the new task best.

What is free shrinks as about (1 - density)^(t - 1) with task t (the record's ``free_share`` has
it): for 30 % on the last of T tasks, density <= 1 - 0.3^(1 / (T - 1)), which is 0.26 for 5 tasks,
0.125 for 10, 0.061 for 20, 0.012 for 100.

Differences from the authors' code stand in ``clray/models/supermask_learner.py``.
"""

from __future__ import annotations

from clray.models.supermask_config import SubnetworkConfig
from clray.models.supermask_learner import SubnetworkLearner


class Config(SubnetworkConfig):
    """Knobs of exclusive supermask subnetwork training."""


class ExSSNeT(SubnetworkLearner):
    """Searches a mask for each task, and trains the weights that are its alone."""

    exclusive = True
