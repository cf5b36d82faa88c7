"""An S3 on this machine, in a process of its own (moto): it counts what it is asked, and fails when
it is told to. Run as a program it prints its port and serves.

In a process of its own, since pyarrow holds the interpreter's lock while it closes a stream.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIAHIDDEN0123456789", "hidden/secret+0123456789abcdefghijklmnop"
REFUSED = ("403 Forbidden", "AccessDenied", "Access Denied")
EXPIRED = ("400 Bad Request", "ExpiredToken", "The provided token has expired.")
BUSY = ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
GONE = ("404 Not Found", "NoSuchBucket", "The specified bucket does not exist")


class ObjectStore:
    """A client of the server below.

    Args:
        port: where it listens on this machine.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def _ask(self, path: str, method: str = "POST", content: Any = None) -> bytes:
        request = urllib.request.Request(
            self.url + path, json.dumps(content).encode(), method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
        return found

    def make_bucket(self, name: str) -> None:
        self._ask("/_bucket", content=name)

    def fail(self, fault: tuple[str, str, str], path: str = "", times: int = 10**9) -> None:
        """Answer the next requests with a fault, where their path contains ``path``; the method may
        stand before it: ``PUT checkpoint``."""
        self._ask("/_fail", content={"fault": fault, "path": path, "left": times})

    def recover(self) -> None:
        self._ask("/_fail")

    def asked(self) -> list[str]:
        """The requests since this was called last, as ``GET /bucket/path``."""
        found: list[str] = json.loads(self._ask("/_asked"))
        return found

    def names(self) -> list[str]:
        """What is stored, by address."""
        client = self._client()
        return [
            f"{bucket['Name']}/{one['Key']}"
            for bucket in client.list_buckets()["Buckets"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"])
            for one in page.get("Contents", ())
        ]

    def contents(self) -> dict[str, bytes]:
        """All that is stored, by address; nobody may be deleting."""
        return {name: self.read(name) for name in self.names()}

    def read(self, name: str) -> bytes:
        bucket, _, key = name.partition("/")
        found: bytes = self._client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A server that lives as long as it is entered."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield ObjectStore(int(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


class _Server:
    """moto's S3, behind a counter and a fault."""

    def __init__(self) -> None:
        import moto.server as moto

        self.s3: Any = moto.DomainDispatcherApplication(moto.create_backend_app)  # type: ignore[attr-defined]
        self.seen: list[str] = []
        self.fault: dict[str, Any] = {}

    def __call__(self, request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path, method = request["PATH_INFO"], request["REQUEST_METHOD"]
        if path.startswith("/_"):
            start("200 OK", [])
            return [self._obey(path, json.loads(self._body(request)))]
        self.seen.append(f"{method} {path}")
        fault = self.fault
        before, _, piece = fault.get("path", "").rpartition(" ")
        if fault.get("left", 0) > 0 and piece in path and method.startswith(before):
            fault["left"] -= 1
            self._body(request)
            status, code, text = fault["fault"]
            start(status, [("Content-Type", "application/xml")])
            return [f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()]
        found: Iterable[bytes] = self.s3(request, start)
        return found

    def _body(self, request: dict[str, Any]) -> bytes:
        content: bytes = request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        return content

    def _obey(self, path: str, told: Any) -> bytes:
        if path == "/_bucket":
            from moto.s3.models import s3_backends

            s3_backends["123456789012"]["aws"].create_bucket(told, "us-east-1")
        elif path == "/_fail":
            self.fault = told or {}
        elif path == "/_asked":
            seen, self.seen = self.seen, []
            return json.dumps(seen).encode()
        return b""


def _serve() -> None:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            """Nothing."""

    server = make_server("127.0.0.1", 0, _Server(), threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve()
