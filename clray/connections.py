"""The clients of object stores: one for each address, kept."""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor

from pyarrow import fs

GCS_RETRY_SECONDS = 10
"""How long Google's client tries again where nothing answers; its own choice is 15 minutes.
Amazon's gives up after 6 seconds."""
_READ = ("AWS_", "GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR")
"""How the environment variables begin that these clients read."""


def connect(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path there. Asking for a bucket's region takes a
    journey, so it is done once for each address and environment.

    Raises:
        OSError, pyarrow.ArrowInvalid: an address that cannot be one, or a bucket that is not there.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), uri
    environment = (pair for pair in os.environ.items() if pair[0].startswith(_READ))
    return _connect(uri, tuple(sorted(environment)))


@functools.lru_cache(maxsize=64)
def _connect(uri: str, _: tuple[tuple[str, str], ...]) -> tuple[fs.FileSystem, str]:
    mark = "&" if "?" in uri else "?"
    if uri.startswith("s3://") and "allow_delayed_open" not in uri:
        uri += f"{mark}allow_delayed_open=true"  # one request for each small file, not three
    elif uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
        uri += f"{mark}retry_limit_seconds={GCS_RETRY_SECONDS}"
    found: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(uri)
    return found


@functools.cache
def uploader() -> ThreadPoolExecutor:
    """Threads that write: an exception in the main one cannot cut their files short."""
    return ThreadPoolExecutor(8, thread_name_prefix="upload")
