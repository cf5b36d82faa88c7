"""A pretended AWS: moto's server, whose instances are machines that can be reached by ssh.

Run inside the namespaces that ``aws_world.sh`` makes. While the file ``/mnt/no-spot`` exists there
is no spot capacity.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instances import InstanceBackend
from moto.moto_server.threaded_moto_server import ThreadedMotoServer

ADDRESS = "10.0.0.1"
PORT = 5000
NO_SPOT = Path("/mnt/no-spot")
LOG = Path("/mnt/machines.log")


class NoCapacity(EC2ClientError):
    """What EC2 answers when it has no spot machine of that type."""

    def __init__(self) -> None:
        super().__init__(
            "InsufficientInstanceCapacity", "There is no Spot capacity available that matches."
        )


class Machines:
    """The machines behind the instances: started and killed with them."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._lock = threading.Lock()

    def start(self, instance: Any, public_key: bytes) -> None:
        """Boot the machine of an instance."""
        with self._lock:
            self._started += 1
            name = f"m{self._started}"
            key = Path(f"/mnt/{name}.pub")
            key.write_bytes(public_key)
            script = Path(__file__).with_name("aws_machine.sh")
            endpoint = f"http://{ADDRESS}:{PORT}"
            addresses = (instance.private_ip, instance.public_ip)
            with LOG.open("ab") as log:
                self._running[instance.id] = subprocess.Popen(
                    ["bash", script, "boot", name, *addresses, key, sys.prefix, endpoint],
                    stdout=log,
                    stderr=log,
                )

    def kill(self, instance_id: str) -> None:
        """End the machine of an instance, and everything on it, at once."""
        with self._lock:
            machine = self._running.pop(instance_id, None)
        if machine is not None:
            machine.kill()
            machine.wait()


def serve() -> None:
    """Serve until killed."""
    machines = Machines()
    run, terminate = InstanceBackend.run_instances, InstanceBackend.terminate_instances

    def run_instances(self: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("instance_market_options") and NO_SPOT.exists():
            raise NoCapacity
        reservation = run(self, *args, **kwargs)
        for instance in reservation.instances:
            machines.start(instance, self.key_pairs[instance.key_name].material_public)
        return reservation

    def terminate_instances(self: Any, instance_ids: list[str]) -> Any:
        ended = terminate(self, instance_ids)
        for instance, _ in ended:
            machines.kill(instance.id)
        return ended

    InstanceBackend.run_instances = run_instances  # type: ignore[method-assign]
    InstanceBackend.terminate_instances = terminate_instances  # type: ignore[method-assign]
    ThreadedMotoServer(ip_address=ADDRESS, port=PORT).start()
    threading.Event().wait()


if __name__ == "__main__":
    os.environ["MOTO_IAM_LOAD_MANAGED_POLICIES"] = "true"
    serve()
