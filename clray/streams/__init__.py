"""Streams of tasks: datasets, scenarios, orders, transforms, and stored streams."""
