"""How hyperparameters are chosen, and what is tested afterwards.

``boards`` makes a job's plan; ``views`` says what each selection protocol may look at; ``choosing``
(once), ``dynamic`` and ``chf`` (anew for each task) choose; ``testing`` runs what was chosen on
test, once; ``running`` does all of it for a job.
"""

from clray.protocols.running import PlannedBoard, plan, planned_boards, run_job

__all__ = ["PlannedBoard", "plan", "planned_boards", "run_job"]
