"""A job, planned."""

from __future__ import annotations

from clray.job import JobSpec
from clray.protocols.boards import boards_of, fill_in


def test_what_one_entrys_space_holds_fixed_is_its_own() -> None:
    plain = {
        "name": "a",
        "benchmark": "split-digits",
        "methods": {
            "finetune": {"space": {"model": {"dropout": 0.5}}},
            "joint": {"space": {"optimizer": {"lr": 0.1}}},
        },
    }
    job = fill_in(JobSpec.model_validate(plain))
    for planned in (job, fill_in(job)):
        (board,) = boards_of(planned)
        dropout = [one.base.model.knobs["dropout"] for one in board.contenders]
        assert dropout == [0.5, 0.0]
