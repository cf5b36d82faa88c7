"""The store on S3: whole files or none, few requests, and one clear error for whatever fails."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clray import outages
from clray.addresses import results_at
from clray.errors import BadInput, StorageFailed
from clray.store import Folder, check_writable
from tests.object_store import (
    BUSY,
    EXPIRED,
    GONE,
    KEY,
    REFUSED,
    SECRET,
    ObjectStore,
    object_store,
)

pytest.importorskip("moto", reason="moto is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as found:
        found.make_bucket("results")
        yield found


@pytest.fixture
def s3(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(outages, "PAUSES", (0.05,))
    outages._failing.clear()
    server.recover()
    server.asked()
    return server


def test_a_folder_is_the_same_as_a_local_one(s3: ObjectStore, tmp_path: Path) -> None:
    told = []
    for uri in (str(tmp_path / "a"), "s3://results/a?region=us-east-1"):
        folder = Folder(uri) / "jobs" / "x"
        assert folder.names() == []
        assert folder.find("a") is None
        assert folder.find_lines("a") == []
        with pytest.raises(FileNotFoundError):
            folder.read("a")
        with pytest.raises(FileNotFoundError):
            folder.open("a")
        folder.write_json("a.json", {"a": [1, None]})
        folder.write_lines("a.jsonl", [1, {"b": 2}])
        folder.write("below/b", memoryview(b"x" * 12_000_000))  # in parts
        folder.write("below/c/d", b"")
        folder.write("a.jsonl", b"[]\n")
        folder.delete("missing")
        folder.delete_folder("missing")
        folder.sweep_up()
        with folder.open("below/b") as file:
            file.seek(11_999_999)
            told.append(file.read())
        told.append([folder.names(), folder.files(), folder.files("below")])
        told.append([folder.read_json("a.json"), folder.read_lines("a.jsonl")])
        folder.delete("a.json")
        folder.delete_folder("below")
        told.append([folder.names(), folder.has("a.json"), folder.has("a.jsonl")])
        other = folder.beside("y")
        other.write("z", b"")
        told.append((Folder(uri) / "jobs").names())
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    assert told[0] == b"x"


def test_few_requests(s3: ObjectStore) -> None:
    folder = Folder("s3://results/few") / "trials" / "x"
    counted = {}
    for name, call in {
        "write": lambda: folder.write("a", b"1"),
        "find": lambda: folder.find("a"),
        "find nothing": lambda: folder.find("b"),
        "delete nothing": lambda: folder.delete("b"),
        "names": folder.names,
        "move": lambda: Folder("s3://results/few") / "trials" / "y",
    }.items():
        s3.asked()
        call()  # type: ignore[no-untyped-call]
        counted[name] = len(s3.asked())
    assert counted == {
        "write": 1,
        "find": 2,
        "find nothing": 1,
        "delete nothing": 1,
        "names": 1,
        "move": 0,
    }


def test_a_file_of_which_a_part_was_refused_is_not_there(s3: ObjectStore) -> None:
    folder = Folder("s3://results/parts")
    folder.write("old", b"old")
    for name in ("old", "new"):
        s3.fail(REFUSED, f"PUT /results/parts/{name}")
        with pytest.raises(StorageFailed, match=f"parts/{name}: cannot be written: access was"):
            folder.write(name, b"x" * 25_000_000)
        s3.recover()
    assert folder.files() == {"old": 3}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (REFUSED, "access was refused"),
        (EXPIRED, "the credentials have expired"),
        (GONE, "no such bucket"),
        (("403 Forbidden", "InvalidAccessKeyId", "no " + KEY), "the credentials are not valid"),
        (("403 Forbidden", "SignatureDoesNotMatch", SECRET), "the credentials are not valid"),
        (("301 Moved Permanently", "PermanentRedirect", "there"), "lies in another region"),
        (("418 I'm a teapot", "Odd", f"{SECRET} is odd"), "…"),
    ],
)
def test_what_is_refused_is_told_in_words(
    s3: ObjectStore, fault: tuple[str, str, str], said: str
) -> None:
    folder = Folder("s3://results/a")
    folder.write("a", b"")
    s3.fail(fault)
    calls: list[Callable[[], object]] = [lambda: folder.write("a", b"1")]
    if fault is not GONE:  # what is listed or looked for in no bucket is not there
        calls += [lambda: folder.find("a"), lambda: folder.files()]
    start = time.monotonic()
    for call in calls:
        with pytest.raises(
            StorageFailed, match=f"s3://results/a.*: cannot be .*: .*{said}"
        ) as told:
            call()
        again = pickle.loads(pickle.dumps(told.value))
        assert (type(again), str(again)) == (StorageFailed, str(told.value))
        assert SECRET not in str(told.value)
        assert KEY not in str(told.value)
    assert time.monotonic() - start < 5


@pytest.mark.slow
def test_a_short_outage_is_waited_for(s3: ObjectStore) -> None:
    folder = Folder("s3://results/short")
    folder.write("a", b"1")
    s3.fail(BUSY)
    threading.Timer(8, s3.recover).start()  # Amazon's own client gives up after 6 seconds
    folder.write("a", b"2")
    assert folder.read("a") == b"2"


def test_an_address_that_never_answered_is_not_waited_for(s3: ObjectStore) -> None:
    start = time.monotonic()
    with pytest.raises(BadInput, match="no answer") as caught:
        check_writable("s3://results/x?endpoint_override=127.0.0.1:9&scheme=http")
    assert time.monotonic() - start < 10
    assert "accepted: a folder or bucket that" in str(caught.value)


def test_whether_results_can_be_written_is_asked_first(
    s3: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable("s3://results/asked")
    assert Folder("s3://results/asked").names() == []
    s3.fail(REFUSED, "PUT /results/asked")
    with pytest.raises(BadInput, match=r"asked \(cannot be written: access was refused"):
        check_writable("s3://results/asked")
    with pytest.raises(BadInput, match="no such bucket"):
        check_writable("s3://other/x")
    for name in s3.environment:
        if name.endswith(("ID", "KEY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    s3.fail(REFUSED)  # as S3 answers who has no credentials
    with pytest.raises(BadInput, match="access was refused; let these credentials"):
        check_writable("s3://results/asked")


def test_a_file_that_is_replaced_while_it_is_read(s3: ObjectStore) -> None:
    folder = Folder("s3://results/live")
    left = threading.Event()

    def write() -> None:
        size = 1
        while not left.is_set():
            size = size % 50 + 7
            folder.write_lines("a", [{"line": "x" * 300}] * size)

    folder.write_lines("a", [])
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert all(line == {"line": "x" * 300} for line in folder.read_lines("a"))
    finally:
        left.set()
        writer.join()


@pytest.mark.parametrize(
    "address",
    [
        f"s3://{KEY}:{SECRET}@results/x",
        f"s3://results/x?access_key={KEY}&secret_key={SECRET}",
        f"s3://results/x?session_token={SECRET}",
        f"s3://results/x?endpoint_override=http://{KEY}:{SECRET}@host",
        f"gs://results/x?access_token={SECRET}",
        f"gs://{SECRET}@results/x",
        "s3://",
        "s3:///x",
        "gs://",
        "s3://results//x",
        "s3://results/../x",
        "s3://results/x?region=",
        "s3://results/x?regon=us-east-1",
        "s3://results/x#a",
        "ftp://results/x",
        "https://results.s3.amazonaws.com/x",
        "file://host/x",
        "",
        "  ",
    ],
)
def test_bad_addresses(address: str) -> None:
    for call in (lambda: Folder(address, "--results"), lambda: results_at(address)):
        with pytest.raises(BadInput, match=r"--results: got .*; accepted: ") as caught:
            call()
        assert SECRET not in str(caught.value)
        assert SECRET.split("/")[1] not in str(caught.value)
        assert KEY not in str(caught.value)


def test_the_nearest_says_where_results_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    assert results_at(None) == "results"
    monkeypatch.setenv("CLRAY_RESULTS", "s3://bucket/c")
    assert results_at(None) == "s3://bucket/c"
    assert results_at(None, "b") == "b"
    assert results_at("a", "b") == "a"
    monkeypatch.setenv("CLRAY_RESULTS", "s3://a:b@bucket")
    with pytest.raises(BadInput, match="CLRAY_RESULTS: got 's3://…bucket'"):
        results_at(None)
