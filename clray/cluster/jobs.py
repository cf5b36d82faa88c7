"""The Ray Jobs of one cluster: reached over HTTP, with a token where this machine has one."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packaging.version import Version
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from requests.exceptions import RequestException, Timeout

import clray
from clray.capacity import NodeType
from clray.cluster.sent import Sent
from clray.cluster.tail import Tail
from clray.errors import BadInput, BadSpec, RunFailed, UnknownName, Unreachable

OLDEST_RAY = "2.60.0"
SECONDS = 30
"""How long an answer may take."""
TOKEN = (
    "the cluster's token: in the file ~/.ray/auth_token (mode 600), in a file that "
    "RAY_AUTH_TOKEN_PATH names, or in RAY_AUTH_TOKEN"
)
_NAME, _RESULTS, _DIGEST, _VERSION = "clray_job", "clray_results", "clray_digest", "clray"


@dataclass(frozen=True)
class Submitted:
    """A job on a cluster.

    Attributes:
        name: of the job.
        id: its submission's.
        state: pending, running, stopped, succeeded or failed.
        results: where its results go.
        digest: of what was sent.
        started: when it was submitted.
        ended: when it ended, if it has.
        message: what Ray says of its state.
        exit_code: of its command, once it has ended by itself.
    """

    name: str
    id: str
    state: str
    results: str
    digest: str
    started: datetime | None
    ended: datetime | None
    message: str
    exit_code: int | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whichever way."""
        return self.state in ("stopped", "succeeded", "failed")


class _Client(JobSubmissionClient):  # type: ignore[misc]
    """Ray's, with a limit to how long an answer may take."""

    def _do_request(self, method: str, endpoint: str, **others: Any) -> Any:
        others.setdefault("timeout", SECONDS if method == "GET" else 10 * SECONDS)
        return super()._do_request(method, endpoint, **others)


for _name in ("dashboard_sdk", "job.sdk"):
    logging.getLogger(f"ray.dashboard.modules.{_name}").setLevel(
        logging.ERROR
    )  # we tell what happens ourselves


class Cluster:
    """A cluster's jobs.

    Args:
        address: of its dashboard, such as ``http://127.0.0.1:8265``.
        where: names the address in an error.

    Raises:
        Unreachable: nothing answers there.
        BadInput: an address that is none, no token or a wrong one, a Ray that is too old.
    """

    def __init__(self, address: str, where: str = "--address") -> None:
        self.where, self.address = where, web_address(address, where)
        with self._errors():
            token = own_token()
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            self._has_token = bool(headers)
            with _as_given():
                self._client = _Client(self.address, headers=headers)
        self.ray = str(self._client._server_ray_version)
        if Version(self.ray) < Version(OLDEST_RAY):
            raise BadInput(where, f"Ray {self.ray}", f"a cluster with Ray {OLDEST_RAY} or newer")

    @property
    def is_open_road(self) -> bool:
        """Whether the token travels unencrypted over more than this machine."""
        parts = urlsplit(self.address)
        return self._has_token and parts.scheme == "http" and not _is_here(parts.hostname or "")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except AuthenticationError as error:
            missing = "required" in str(error).partition("\n")[0]
            given = "no token" if missing else "a token that the cluster refuses"
            raise BadInput(f"{self.where} {self.address}", given, TOKEN) from None
        except (RequestException, OSError) as error:
            silent = isinstance(error, Timeout)
            reason = f"no answer within {SECONDS} s" if silent else "nobody listens there"
            accepted = f"the address of a Ray dashboard that answers ({reason})"
            raise Unreachable(self.where, self.address, accepted) from None
        except (RuntimeError, ValueError, KeyError, AssertionError) as error:
            reason = str(error).strip().partition("\n")[0]
            accepted = f"the address of a Ray dashboard, which this is not ({reason})"
            raise BadInput(self.where, self.address, accepted) from None

    def submit(self, sent: Sent, install: bool) -> str:
        """Start a job; its submission's id.

        Args:
            sent: what runs.
            install: whether the job's requirements are installed for it.

        Raises:
            BadInput: see the class.
            RunFailed: the cluster refuses the job.
        """
        metadata = {_NAME: sent.name, _RESULTS: sent.results, _DIGEST: sent.digest}
        metadata[_VERSION] = clray.__version__
        environment: dict[str, Any] = {"env_vars": sent.env}
        if install:
            environment |= {"pip": list(sent.requirements), "config": {"setup_timeout_seconds": -1}}
        return self._start(sent, environment, metadata)

    def run(self, sent: Sent) -> str:
        """Run a command that is not a job, to its end; what it printed.

        Raises:
            BadInput: see the class.
            RunFailed: the cluster refuses it.
        """
        number = self._start(sent, {"env_vars": sent.env}, {})
        over = {JobStatus.STOPPED, JobStatus.SUCCEEDED, JobStatus.FAILED}
        with self._errors():
            while self._client.get_job_status(number) not in over:
                time.sleep(0.5)
            return str(self._client.get_job_logs(number))

    def _start(self, sent: Sent, environment: dict[str, Any], metadata: dict[str, str]) -> str:
        number = f"clray-{sent.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        with tempfile.TemporaryDirectory(prefix="clray-") as folder:
            package = Path(folder) / "package.zip"
            package.write_bytes(sent.package)
            try:
                with self._reached():
                    submitted = self._client.submit_job(
                        entrypoint=sent.command,
                        submission_id=number,
                        runtime_env={**environment, "working_dir": str(package)},
                        metadata=metadata,
                    )
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise RunFailed(f"the cluster refused the job: {reason}") from None
        return str(submitted)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Only what says that the cluster cannot be reached."""
        try:
            yield
        except (AuthenticationError, RequestException, OSError):
            with self._errors():
                raise

    def all(self) -> list[Submitted]:
        """The jobs that clray sent to this cluster, the newest first."""
        with self._errors():
            found = [_read(job) for job in self._client.list_jobs()]
        known = [job for job in found if job is not None]
        return sorted(known, key=lambda job: str(job.started), reverse=True)

    def find(self, name: str) -> Submitted | None:
        """The newest job of that name, or of that submission."""
        return next((job for job in self.all() if name in (job.name, job.id)), None)

    def job(self, name: str) -> Submitted:
        """As ``find``.

        Raises:
            UnknownName: there is none.
        """
        jobs = self.all()
        found = next((job for job in jobs if name in (job.name, job.id)), None)
        if found is None:
            names = sorted({job.name for job in jobs})
            known = names or f"a job that this cluster knows, and {self.address} knows none"
            raise UnknownName("job on the cluster", name, known)
        return found

    def get(self, number: str) -> Submitted:
        """The job of a submission, as it is now.

        Raises:
            BadInput: see the class.
            RunFailed: the cluster does not know it any more.
        """
        try:
            with self._reached():
                found = _read(self._client.get_job_info(number))
        except RuntimeError:
            text = f"{number} is not known there any more: the cluster's head was lost"
            raise RunFailed(f"{text}; submitted again, it goes on from what is stored") from None
        if found is None:
            raise BadSpec("submission", number, "one that clray made")
        return found

    def stop(self, number: str) -> None:
        """Ask a job to stop."""
        with self._reached(), contextlib.suppress(RuntimeError):
            self._client.stop_job(number)

    def logs(self, number: str) -> str:
        """What a job has printed so far."""
        with self._errors():
            return str(self._client.get_job_logs(number))

    def tail(self, number: str) -> Tail:
        """What a job prints, from its start on, as it comes."""
        return Tail(self._client, number)

    def nodes(self) -> list[NodeType]:
        """The machines that the cluster has now, one of each."""
        with self._errors():
            answer = self._client._do_request("GET", "/api/v0/nodes?detail=true&limit=10000")
            listed = answer.json()["data"]["result"]["result"]
        found = []
        for node in listed:
            if node["state"] == "ALIVE":
                total = node.get("resources_total") or {}
                kept = {name: float(total[name]) for name in ("CPU", "GPU") if name in total}
                found.append(NodeType(str(node.get("node_ip")), kept, 1))
        return found


def own_token() -> str:
    """The token of this machine's user, from where Ray looks for it; "" for none. Ray's own loader
    would keep it for whatever else this process does with Ray."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token.strip()
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given) if given else Path.home() / ".ray" / "auth_token"
    return path.read_text().strip() if path.is_file() else ""


@contextlib.contextmanager
def _as_given() -> Iterator[None]:
    """Without the variables by which Ray's client would override the address that it is given."""
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in hidden if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def web_address(given: str, where: str) -> str:
    """A dashboard's address, with the scheme that may be left out.

    Raises:
        BadInput: it is none.
    """
    accepted = "the address of a Ray dashboard, such as http://127.0.0.1:8265"
    text = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known or " " in given:
        raise BadInput(where, given, accepted)
    return text.rstrip("/") if parts.port or parts.scheme == "https" else f"{text.rstrip('/')}:8265"


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(job: JobDetails) -> Submitted | None:
    """None for a job that is not clray's."""
    known = job.metadata or {}
    if _NAME not in known or job.submission_id is None:
        return None
    states = {JobStatus.PENDING: "pending", JobStatus.RUNNING: "running"}
    states |= {JobStatus.STOPPED: "stopped", JobStatus.SUCCEEDED: "succeeded"}
    return Submitted(
        known[_NAME],
        job.submission_id,
        states.get(job.status, "failed"),
        known.get(_RESULTS, ""),
        known.get(_DIGEST, ""),
        _time(job.start_time),
        _time(job.end_time),
        (job.message or "").strip(),
        job.driver_exit_code,
    )


def _time(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None
