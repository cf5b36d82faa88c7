"""Two workers compute what one computes; their shares may be unequal, or empty."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from clray.distributed import Distributed

ROWS = 5


def _worker(rank: int, root: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=2)
    group = Distributed()
    x = torch.arange(ROWS * 3, dtype=torch.float32).view(ROWS, 3)
    share = group.slice(ROWS)
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    group.mean(model(x[share]).square().squeeze(1)).backward()  # type: ignore[no-untyped-call]
    group.average_gradients(model.parameters())
    alone = group.gather(torch.tensor([[7]])[: 1 - rank])
    told = group.broadcast({"rank": rank})
    value = torch.tensor([float(rank + 1)])
    total = group.sum(value)
    torch.save(
        {
            "sizes": len(x[share]),
            "gathered": group.gather(x[share].to(torch.uint8)),
            "gradient": model.weight.grad,
            "alone": alone,
            "told": told,
            "value": value,
            "total": total,
        },
        f"{root}/{rank}.pt",
    )
    torch.optim.SGD(model.parameters())  # imports much of torch, while there is a group
    dist.destroy_process_group()
    names = [name.read_text() for name in Path("/proc/self/task").glob("*/comm")]
    Path(root, f"{rank}.threads").write_text("".join(names))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    root = tmp_path_factory.mktemp("group")
    command = [sys.executable, __file__, str(root)]
    workers = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    return [
        {
            **torch.load(Path(root) / f"{rank}.pt"),
            "threads": (Path(root) / f"{rank}.threads").read_text(),
        }
        for rank in range(2)
    ]


def test_shares_are_all_rows_in_order(seen: list[dict[str, object]]) -> None:
    assert [one["sizes"] for one in seen] == [2, 3]
    for one in seen:
        expected = torch.arange(ROWS * 3, dtype=torch.uint8).view(ROWS, 3)
        assert torch.equal(one["gathered"], expected)  # type: ignore[arg-type]
        assert one["alone"].tolist() == [[7]]  # type: ignore[attr-defined]


def test_gradients_are_those_of_the_global_mean(seen: list[dict[str, object]]) -> None:
    x = torch.arange(ROWS * 3, dtype=torch.float32).view(ROWS, 3)
    weight = torch.ones(1, 3, requires_grad=True)
    (x @ weight.T).square().mean().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    for one in seen:
        assert torch.allclose(one["gradient"], weight.grad)  # type: ignore[arg-type]


def test_sums_and_broadcasts_are_the_same_everywhere(seen: list[dict[str, object]]) -> None:
    for rank, one in enumerate(seen):
        assert one["told"] == {"rank": 0}
        assert one["total"].tolist() == [3.0]  # type: ignore[attr-defined]
        assert one["value"].tolist() == [rank + 1]  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the threads' names from /proc")
def test_a_group_that_is_destroyed_leaves_no_threads(seen: list[dict[str, object]]) -> None:
    for one in seen:  # they would live on while Python ends, and sometimes abort it
        assert "python" in one["threads"]  # type: ignore[operator]
        assert "gloo" not in one["threads"]  # type: ignore[operator]


def test_a_process_alone_is_a_group_of_one() -> None:
    alone = Distributed()
    x = torch.tensor([1.0, 2.0])
    assert (alone.rank, alone.world, alone.slice(7)) == (0, 1, slice(0, 7))
    assert alone.mean(x) == 1.5
    assert alone.sum(x) is x
    assert alone.gather(x) is x
    assert alone.broadcast("x") == "x"


if __name__ == "__main__":
    _worker(int(sys.argv[2]), sys.argv[1])
