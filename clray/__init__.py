"""clray: distributed hyperparameter sweeps for continual learning, on Ray."""

__version__ = "0.1.0"
