"""AG News, Yelp, Amazon, Yahoo and DBpedia, one for each task (de Masson d'Autume et al., 2019).

Topics in 4 classes, ratings in 5 and 5, topics in 10 and 14; files of Zhang, Zhao and LeCun (2015),
in folders ``ag``, ``yelp``, ``amazon``, ``yahoo`` and ``dbpedia`` below ``root``, each with
``train.csv`` and ``test.csv`` as they were published, or the hub's Parquet files; Yahoo's of these
need ``columns: {yahoo: [topic, question_title, question_content, best_answer]}``.

ExSSNeT's release, after IDBR's, learns from 2,000 examples of each class of the training file,
holds out 2,000 others, and tests on the whole test file: ``train_per_class: 4000`` with
``protocol.validation_fraction: 0.5``. Final runs learn from both. Yelp and Amazon are tasks of
their own, with units of their own. ``task_order: webnlp/i`` to ``webnlp/iv`` are the four
customary orders.
"""

from __future__ import annotations

from clray.streams.scenarios import NumTasks
from clray.streams.text_sets import FolderNames, PerClass, Root, TextSets


class Config(TextSets):
    """The knobs, with this benchmark's defaults."""

    dataset: FolderNames = "ag + yelp + amazon + yahoo + dbpedia"
    num_tasks: NumTasks = 5
    root: Root = "$CLRAY_DATA/webnlp"
    train_per_class: PerClass = 4000
    """Training examples of each class that are drawn at most, before any is held out; none: all."""
