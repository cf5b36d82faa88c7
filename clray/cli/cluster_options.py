"""Options that lead to a cluster."""

from __future__ import annotations

from typing import Annotated

import typer

Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="The dashboard of a cluster that runs, such as http://127.0.0.1:8265; by default "
        "what RAY_API_SERVER_ADDRESS names.",
    ),
]
ClusterPath = Annotated[
    str | None,
    typer.Option("--cluster", metavar="FILE", help="A cluster file, such as cluster.yaml."),
]
