"""The whole of a trial under way, on disk: where it goes on, or where a longer trial begins.

A file is one line of JSON that says whose it is and how far it came, then what torch pickled. It is
our own, never a download: loading it may execute what a learner pickles to.
"""

from __future__ import annotations

import io
import json
from typing import Any

import torch

import clray
from clray import apart
from clray.spec import TrialSpec
from clray.store import Folder

NAME = "checkpoint"

MOST_GPUS = 64
"""Of a machine, in whose names tensors may have been saved."""

State = dict[str, Any]


def save(state: State, key: str, folder: Folder, device: torch.device) -> None:
    """Store a trial's state (with ``task`` and ``epoch``) and that of torch's own randomness."""
    state = {**state, "random": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda_random"] = torch.cuda.get_rng_state(device)
    buffer = io.BytesIO()
    buffer.write(_head(key, device, state["task"], state["epoch"]))
    torch.save(state, buffer)
    folder.write(NAME, buffer.getvalue())


def _head(key: str, device: torch.device, task: int, epoch: int) -> bytes:
    return json.dumps({**_whose(key, device), "tasks": task, "epoch": epoch}).encode() + b"\n"


def _whose(key: str, device: torch.device) -> dict[str, str]:
    return {"version": clray.__version__, "key": key, "device": device.type}


def find(spec: TrialSpec, folder: Folder, device: torch.device) -> bytes | None:
    """The checkpoint, by this version of clray on this kind of device, of this trial; or of a trial
    that learned the beginning of the same stream in the same way: the longest that was kept."""
    content = folder.find(NAME)
    if content is not None:
        head = json.loads(content.partition(b"\n")[0])
        if _whose(spec.key, device).items() <= head.items():
            return content
    for shorter in apart.beginnings(spec):
        beside = folder.beside(shorter.key)
        content = beside.find(NAME)
        head = _head(shorter.key, device, shorter.until or 0, 0)
        if content is not None and content.startswith(head):
            return content
    return None


def is_of(content: bytes, spec: TrialSpec) -> bool:
    """Whether a checkpoint is of this very trial."""
    key: str = json.loads(content.partition(b"\n")[0])["key"]
    return key == spec.key


def load(content: bytes, device: torch.device) -> State:
    """The state in a checkpoint, with torch's own randomness set to what it was."""
    payload = io.BytesIO(content[content.index(b"\n") + 1 :])
    # What lay on the CPU stays there: a memory's bookkeeping does, wherever its examples lie.
    where = {f"cuda:{number}": str(device) for number in range(MOST_GPUS)}
    state: State = torch.load(payload, map_location=where, weights_only=False)
    torch.set_rng_state(state["random"].cpu())
    if "cuda_random" in state:
        torch.cuda.set_rng_state(state["cuda_random"].cpu(), device)
    return state
