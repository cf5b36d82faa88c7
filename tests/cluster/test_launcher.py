"""The launcher without a cluster: tokens, providers that do not answer, and limits."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest

from clray.cluster import launch_process
from clray.cluster.cluster_file import ClusterFile, read_cluster_file
from clray.cluster.launch_process import launch
from clray.cluster.launch_tunnel import tunnel
from clray.cluster.launcher import dashboard, down, is_up, make_token
from clray.errors import BadData, RunFailed
from tests.cluster.test_cluster_file import AWS, SSH, write


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and an empty place for what Ray notes about machines by SSH."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    return tmp_path


@pytest.fixture
def by_ssh(home: Path) -> ClusterFile:
    """Two machines by SSH that are nowhere."""
    return read_cluster_file(write(home, SSH.replace("10.0.0.", "127.0.0.")))


def test_a_token_is_made_once_for_its_owner_alone(by_ssh: ClusterFile, home: Path) -> None:
    said: list[str] = []
    make_token(by_ssh, said.append)
    token = home / ".ray" / "auth_token"
    written = token.read_text()
    assert len(written) == 64
    assert token.stat().st_mode & 0o777 == 0o600
    token.chmod(0o644)
    make_token(by_ssh, said.append)
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == written
    assert [line.split(":")[0] for line in said] == [
        "made a token for the cluster",
        "now only you can read the token",
    ]
    assert written not in str(said)
    token.write_text("")
    with pytest.raises(BadData, match="a file with Ray's token"):
        make_token(by_ssh, said.append)


def test_a_cluster_that_was_never_up(by_ssh: ClusterFile) -> None:
    said: list[str] = []
    assert not is_up(by_ssh)
    down(by_ssh, said.append)
    assert said == ["cluster lab is down"]
    with pytest.raises(RunFailed, match="cluster lab: no SSH to me@"), dashboard(by_ssh):
        pass


def test_a_shell_that_knows_another_ray_does_not_matter(
    by_ssh: ClusterFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_UP_enable_autoscaler_v2", "1")
    with launch_process._environment(by_ssh) as environment:
        assert "RAY_ADDRESS" not in environment
        assert environment["RAY_UP_enable_autoscaler_v2"] == "0"


def test_a_cloud_without_credentials(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="needs the extra aws")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(RunFailed, match="aws says: NoCredentialsError: Unable to locate cred"):
        is_up(read_cluster_file(write(home, AWS)))


def test_a_cloud_that_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("boto3", reason="needs the extra aws")
    monkeypatch.setattr(launch_process, "ANSWER", 4.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(RunFailed, match="aws did not answer within 4 s; is the network up"):
            is_up(read_cluster_file(write(home, AWS)))
    assert time.monotonic() - start < 30


def test_a_launcher_that_fails_is_told_with_the_end_of_its_log(by_ssh: ClusterFile) -> None:
    with pytest.raises(RunFailed) as failed:
        launch(by_ssh, ["up", "--no-such-option"], print, 60)
    assert "ray up failed (exit code 2)" in str(failed.value)
    assert "No such option" in str(failed.value)
    log = Path(str(failed.value).split("all of it: ")[1].splitlines()[0])
    assert "No such option" in log.read_text()


def test_a_launcher_that_takes_too_long_is_ended(by_ssh: ClusterFile) -> None:
    with pytest.raises(RunFailed, match=r"ray up took longer than 0\.005 min"):
        launch(by_ssh, ["up", "-y"], print, 0.3)


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs openssh-client")
def test_a_machine_that_cannot_be_reached() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = str(closed.getsockname()[1])
        start = time.monotonic()
        with (
            pytest.raises(RunFailed, match=r"no SSH to nobody@127\.0\.0\.1: ssh: connect to host"),
            tunnel(["-p", port, "nobody@127.0.0.1"], 8265, 60),
        ):
            pass
    assert time.monotonic() - start < 30
