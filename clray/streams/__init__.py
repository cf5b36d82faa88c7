"""Streams of tasks: datasets, scenarios, orders and transforms."""

from clray.streams.examples import TensorExamples, cumulate

__all__ = ["TensorExamples", "cumulate"]
