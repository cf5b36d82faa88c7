"""Trials of earlier jobs that a search knows from the start (``search.warm_start``)."""

from __future__ import annotations

from typing import Any

from clray.errors import BadData, BadSpec
from clray.job import JobSpec
from clray.objective import Objective
from clray.store import Folder, job_folder
from clray.study import Known, Result

WHERE = "search.warm_start"


def known_trials(job: JobSpec, results: str) -> dict[str, tuple[Known, ...]]:
    """The completed trials of the jobs named, by the label of the entry.

    What a trial was graded on is what its measures tell, so a job helps only one that chooses in
    the same way: else a search could know of data that its protocol forbids.

    Raises:
        BadSpec: a job that is not there, is not finished, was after something else, chose in
            another way, or tried none of these entries.
        BadData: a stored file is damaged.
    """
    found: dict[str, list[Known]] = {label: [] for label in job.methods}
    for name in job.search.warm_start:
        folder = job_folder(results, name)
        where = f"{folder.uri}/trials.jsonl"
        _check(job, name, folder, results)
        own = 0
        try:
            for line in folder.read_lines("trials.jsonl"):
                usual = line["task"] is None and line["stage"] == "search"
                if usual and line["state"] == "completed" and line["label"] in found:
                    result = Result("completed", dict(line["measures"]), ())
                    found[line["label"]].append((dict(line["values"]), result))
                    own += 1
        except FileNotFoundError:
            raise BadData(where, "no such file", "the trials as clray wrote them") from None
        except (KeyError, TypeError, ValueError):
            raise BadData(where, "damaged content", "lines as clray wrote them") from None
        if not own:
            accepted = f"a job with completed trials of {', '.join(job.methods)}"
            raise BadSpec(WHERE, name, accepted)
    return {label: tuple(trials) for label, trials in found.items()}


def _check(job: JobSpec, name: str, folder: Folder, results: str) -> None:
    if name == job.name:
        raise BadSpec(WHERE, name, "other jobs than this one")
    if not folder.has("final.json"):
        jobs = [one for one in (Folder(results) / "jobs").names() if not one.startswith(".")]
        finished = [one for one in jobs if job_folder(results, one).has("final.json")]
        raise BadSpec(
            WHERE, name, finished or f"finished jobs in {results}, of which there are none"
        )
    wanted = [objective.metric for objective in job.search.objective]
    ways = [_way(one.model_dump(mode="json")) for one in job.protocol.selection]
    final = folder.read_json("final.json")
    try:
        for board in final["boards"]:
            measured = [Objective.model_validate(one).metric for one in board["objectives"]]
            if measured != wanted:
                raise BadSpec(f"{WHERE}: objectives of {name}", measured, ", ".join(wanted))
            if len(ways) > 1 or _way(board["selection"]) != ways[0]:
                given = str(board["selection"]["name"])
                accepted = "a single selection protocol, and the same in both jobs"
                raise BadSpec(f"{WHERE}: selection of {name}", given, accepted)
    except (KeyError, TypeError, ValueError):
        where = f"{folder.uri}/final.json"
        raise BadData(where, "damaged content", "a leaderboard as clray wrote it") from None


def _way(selection: dict[str, Any]) -> dict[str, Any]:
    """A selection protocol, without what it is called."""
    return {key: value for key, value in selection.items() if key != "label"}
