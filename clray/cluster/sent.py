"""What is sent to a cluster, whichever way it travels."""

from __future__ import annotations

from dataclasses import dataclass

from clray.spec import Resources


@dataclass(frozen=True)
class Sent:
    """A job on its way to a cluster.

    Attributes:
        name: the job's.
        package: the zip that is unpacked on the cluster; the command runs in its folder.
        digest: SHA-256 of the package's content, hexadecimal.
        command: what runs on the head.
        results: where the results go.
        env: environment variables of the job; never a secret.
        requirements: what the package needs, as pip takes it.
        resources: what the job's slots hold.
        python: the version here, such as 3.11.
        ray: the version here, such as 2.60.0.
    """

    name: str
    package: bytes
    digest: str
    command: str
    results: str
    env: dict[str, str]
    requirements: tuple[str, ...]
    resources: Resources
    python: str
    ray: str
