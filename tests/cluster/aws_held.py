"""Fine-tuning that waits in its second task while the bucket holds ``hold/``, and tells where.

So the story decides when the sweep goes on, however slow the machine is.
"""

from __future__ import annotations

import time

import boto3
import ray
from torch import Tensor

from clray.learner import Learner, MethodConfig
from clray.task import Task

BUCKET = "clray-123456789012-us-west-2"


class Config(MethodConfig):
    """It has no knobs."""


class Held(Learner):
    """Cross-entropy on the current batch."""

    def begin_epoch(self, task: Task, epoch: int, num_epochs: int) -> None:
        """Wait."""
        super().begin_epoch(task, epoch, num_epochs)
        if task.index != 1:
            return
        s3 = boto3.client("s3")
        s3.put_object(Bucket=BUCKET, Key=f"held/{ray.util.get_node_ip_address()}")
        while s3.list_objects_v2(Bucket=BUCKET, Prefix="hold/").get("KeyCount"):
            time.sleep(1)

    def observe(self, x: Tensor, y: Tensor, task: Task) -> dict[str, Tensor]:
        """One step."""
        loss = self.cross_entropy(self.forward_augmented(x), y)
        self.step(loss)
        return {"loss": loss.detach()}
