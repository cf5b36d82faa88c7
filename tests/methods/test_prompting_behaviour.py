"""On a pretrained transformer, prompts learn class-incremental digits and forget less than a head.

The encoder stands for a large pretrained one: it has seen a quarter of the digits, of all classes,
which the stream does not hold.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from clray import registry, trial
from clray.spec import TrialSpec
from clray.store import Folder
from clray.streams import digits

NAME = "vit_tiny_patch16_224"
OPTIONS = {"img_size": 8, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 4}
STEPS, BATCH = 800, 64
SEEDS = (11, 12, 13)
L2P = {"name": "l2p", "length": 1, "num_selected": 3}
CODA = {"name": "coda_prompt", "components": 40, "num_layers": 3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a transformer that was trained on the reserved digits, moved by up to a pixel."""
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(NAME, num_classes=0, **OPTIONS)
    model = nn.Sequential(network, nn.Linear(64, 10))
    x, y = digits.whole()
    chosen = digits.reserved()
    x, y = (x[chosen].float() / 127.5 - 1).expand(-1, 3, -1, -1), y[chosen]
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.002, STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,))
        down, right = torch.randint(-1, 2, (2,)).tolist()
        loss = F.cross_entropy(model(x[batch].roll((down, right), (2, 3))), y[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    path = tmp_path_factory.mktemp("weights") / "digits.safetensors"
    save_file(network.state_dict(), path)
    return path


def accuracy(method: Any, lr: float, weights: Path, folder: Path) -> float:
    """Average accuracy, mean of three seeds, on two tasks of five digits."""
    found = []
    for seed in SEEDS:
        plain = {
            "method": method,
            "benchmark": {"name": "split-digits", "dataset": "digits-rest", "num_tasks": 2},
            "model": {
                "name": f"timm/{NAME}",
                "frozen": True,
                "weights": str(weights),
                "options": OPTIONS,
            },
            "protocol": {"epochs": 10, "batch_size": 32},
            "optimizer": {"name": "adam", "lr": lr},
            "split": "test",
            "seed": seed,
        }
        spec = registry.complete(TrialSpec.model_validate(plain))
        outcome = trial.run(spec, Folder(str(folder / spec.key)))
        found.append(outcome.metrics["average_accuracy"] or 0)
    return fmean(found)


@pytest.mark.slow
def test_prompts_forget_less_than_a_head(weights: Path, tmp_path: Path) -> None:
    heads = [accuracy("finetune", lr, weights, tmp_path) for lr in (0.0003, 0.001, 0.01)]
    l2p = accuracy(L2P, 0.01, weights, tmp_path)
    coda = accuracy(CODA, 0.01, weights, tmp_path)
    assert heads[-1] < 0.7
    assert l2p > heads[-1] + 0.12
    assert coda > 0.87
    assert coda > max(heads) + 0.05
    # That old classes do not compete is much of it.
    assert accuracy({**L2P, "compete": "protocol"}, 0.01, weights, tmp_path) < l2p - 0.15
    assert accuracy({**CODA, "compete": "protocol"}, 0.01, weights, tmp_path) < coda - 0.25
