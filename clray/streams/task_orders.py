"""Fixed orders of tasks that were published: the task, as defined, at each position.

Those of CIFAR-100 are the five of APD (Yoon, Kim, Yang and Hwang, ICLR 2020), with superclasses
numbered as the dataset does. Those of the five datasets, of Permuted-MNIST (10 tasks) and of Tiny
ImageNet (20 tasks) are what HALRP's code (Li et al., TKDE 2024) draws from the seeds 0 to 4: with
NumPy, and for Tiny ImageNet, whose released runs all have seed 0, with Python's own generator.
Those of WebNLP are the customary four (de Masson d'Autume, Ruder, Kong and Yogatama, NeurIPS 2019).
"""

from __future__ import annotations

ORDERS: dict[str, dict[str, tuple[int, ...]]] = {
    "cifar100-split": {
        "A": tuple(range(10)),
        "B": (1, 7, 4, 5, 2, 0, 8, 6, 9, 3),
        "C": (7, 0, 5, 1, 8, 4, 3, 6, 2, 9),
        "D": (5, 8, 2, 9, 0, 4, 3, 7, 6, 1),
        "E": (2, 9, 5, 4, 8, 0, 6, 1, 3, 7),
    },
    "cifar100-superclass": {
        "A": tuple(range(20)),
        "B": (15, 12, 5, 9, 7, 16, 18, 17, 1, 0, 3, 8, 11, 14, 10, 6, 2, 4, 13, 19),
        "C": (17, 1, 19, 18, 12, 7, 6, 0, 11, 15, 10, 5, 13, 3, 9, 16, 4, 14, 2, 8),
        "D": (11, 9, 6, 5, 12, 4, 0, 10, 13, 7, 14, 3, 15, 16, 8, 1, 2, 19, 18, 17),
        "E": (6, 14, 0, 11, 12, 17, 13, 4, 9, 1, 7, 19, 8, 10, 3, 15, 18, 5, 2, 16),
    },
    "five-datasets": {
        "0": (2, 0, 1, 3, 4),
        "1": (2, 1, 4, 0, 3),
        "2": (2, 4, 1, 3, 0),
        "3": (3, 4, 1, 0, 2),
        "4": (0, 3, 1, 4, 2),
    },
    "permuted-mnist": {
        "0": (2, 8, 4, 9, 1, 6, 7, 3, 0, 5),
        "1": (2, 9, 6, 4, 0, 3, 1, 7, 8, 5),
        "2": (4, 1, 5, 0, 7, 2, 3, 6, 9, 8),
        "3": (5, 4, 1, 2, 9, 6, 7, 0, 3, 8),
        "4": (3, 8, 4, 9, 2, 6, 0, 1, 5, 7),
    },
    "tiny-imagenet": {
        "0": (10, 18, 16, 14, 0, 17, 11, 2, 3, 9, 5, 7, 4, 19, 6, 15, 8, 1, 13, 12),
        "1": (11, 5, 17, 19, 9, 0, 16, 1, 15, 6, 10, 13, 14, 12, 7, 3, 8, 2, 18, 4),
        "2": (7, 6, 17, 8, 19, 15, 13, 0, 3, 9, 14, 4, 10, 12, 16, 5, 11, 18, 2, 1),
        "3": (8, 3, 6, 5, 15, 16, 2, 12, 0, 1, 13, 10, 19, 9, 14, 11, 4, 17, 18, 7),
        "4": (17, 19, 10, 14, 5, 18, 16, 11, 4, 8, 6, 0, 13, 1, 2, 15, 12, 3, 9, 7),
    },
    "webnlp": {
        "i": (1, 0, 4, 2, 3),
        "ii": (4, 3, 0, 2, 1),
        "iii": (1, 3, 2, 4, 0),
        "iv": (0, 1, 2, 3, 4),
    },
}
"""By stream and name."""
