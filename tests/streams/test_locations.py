from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from clray.errors import BadData
from clray.streams import locations, sources
from clray.streams.dataset import Source
from clray.streams.locations import Place, locate

WriteParquet = Callable[..., Path]


class ObjectStore(BaseHTTPRequestHandler):
    """As much of S3 as reading takes: buckets are folders, and ``closed`` lets nobody in."""

    root: Path

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        bucket, _, key = unquote(address.path).lstrip("/").partition("/")
        if bucket == "closed":
            self._refuse(403, "AccessDenied", "Access Denied")
        elif not (self.root / bucket).is_dir():
            self._refuse(404, "NoSuchBucket", "The specified bucket does not exist")
        elif key:
            self._object(self.root / bucket / key)
        else:
            self._list(self.root / bucket, parse_qs(address.query))

    do_HEAD = do_GET  # noqa: N815

    def _object(self, file: Path) -> None:
        if not file.is_file():
            self._refuse(404, "NoSuchKey", "The specified key does not exist")
            return
        content, status = file.read_bytes(), 200
        low, _, high = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        if low:
            content, status = content[int(low) : int(high) + 1], 206
        self._answer(status, content)

    def _list(self, bucket: Path, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        keys = [str(p.relative_to(bucket)) for p in sorted(bucket.rglob("*")) if p.is_file()]
        items, folders = "", set()
        for key in (k for k in keys if k.startswith(prefix)):
            inner = key[len(prefix) :]
            if "delimiter" in query and "/" in inner:
                folders.add(prefix + inner.partition("/")[0] + "/")
                continue
            size = (bucket / key).stat().st_size
            items += (
                f"<Contents><Key>{key}</Key><Size>{size}</Size>"
                "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            )
        for folder in sorted(folders):
            items += f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        self._answer(200, f"<ListBucketResult>{items}</ListBucketResult>".encode())

    def _refuse(self, status: int, code: str, message: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        self._answer(status, text.encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an object store's buckets."""
    handler = type("Handler", (ObjectStore,), {"root": tmp_path})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reach(monkeypatch, server.server_address[1])
    yield tmp_path
    server.shutdown()
    server.server_close()
    locations._file_system.cache_clear()


def reach(monkeypatch: pytest.MonkeyPatch, port: int | str) -> None:
    locations._file_system.cache_clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def same(near: Source, far: Source) -> None:
    a, b = sources.load(near), sources.load(far)
    assert sources.check(far) == sources.check(near)
    assert torch.equal(a.train_x, b.train_x)
    assert torch.equal(a.test_x, b.test_x)
    assert torch.equal(a.train_y, b.train_y)
    listing = sources.listing(far)
    assert listing.train[0].where.startswith("s3://bucket/some/")
    assert torch.equal(listing.train[0].images([2], None)[0][0], a.train_x[2])


def test_parquet_files_in_an_object_store(
    store: Path, write_parquet: WriteParquet, grey: NDArray[np.uint8]
) -> None:
    folder = store / "bucket" / "some" / "data"
    write_parquet(grey, [0, 1, 2] * 4, "train-0", folder, row_group_size=5)
    write_parquet(grey, [0, 2, 1] * 4, "train-1", folder)
    write_parquet(grey[:3], [0, 1, 2], "test-0", folder)
    same(Source(f"parquet:{folder}"), Source("parquet:s3://bucket/some"))
    same(Source(f"parquet:{folder}"), Source("parquet:s3://bucket/some/data/"))


def test_image_folders_in_an_object_store(store: Path, grey: NDArray[np.uint8]) -> None:
    root = store / "bucket" / "some"
    for i, own in enumerate(grey):
        folder = root / ("train" if i < 8 else "val") / "ab"[i % 2] / "deeper"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(own).save(folder / f"{i}.png")
    same(Source(f"folder:{root}"), Source("folder:s3://bucket/some"))


@pytest.mark.parametrize("kind", ["parquet", "folder"])
@pytest.mark.parametrize(
    ("address", "match"),
    [
        ("s3://nowhere", "s3://nowhere: got .*does not exist.*a bucket that exists"),
        ("s3://closed/data", r"s3://closed/data: got .*ACCESS_DENIED.*lets these credentials"),
        ("s3://bucket/none", "looked (for|in) s3://bucket/none"),
    ],
)
def test_what_the_store_says_is_told(kind: str, address: str, match: str, store: Path) -> None:
    (store / "bucket").mkdir()
    with pytest.raises(BadData, match=match):
        sources.check(Source(f"{kind}:{address}"))


def test_a_dead_endpoint_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reach(monkeypatch, port)
    start = time.monotonic()
    with pytest.raises(BadData, match=r"s3://bucket/data: got .*connect.*in a bucket that"):
        sources.check(Source("parquet:s3://bucket/data"))
    assert time.monotonic() - start < 20  # 6 s on a quiet machine
    locations._file_system.cache_clear()


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKET", "s3://bucket/a")
    place = locate("$BUCKET/b/?region=eu-west-1")
    assert place == Place("bucket/a/b", "s3://bucket?region=eu-west-1")
    assert str(place / "c") == "s3://bucket/a/b/c"
    assert locate("some").path == os.path.abspath("some")
    with pytest.raises(BadData, match=r"a local path, s3://bucket/… or gs://bucket/…"):
        locate("ftp://host/data")


def test_a_folder_that_may_not_be_listed(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may list everything")
    (tmp_path / "data").mkdir(mode=0)
    with pytest.raises(BadData, match=r"data: got .PermissionError"):
        sources.check(Source(f"parquet:{tmp_path / 'data'}"))
