"""What a file system that fails means to a person, and how long one that may recover is waited for.

Amazon's client tries a request again for 6 seconds, and Google's for 10: that is all where an
address has never answered, as in the first second of a sweep. One that has answered before is given
``PATIENCE`` more.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from clray.errors import StorageFailed

PATIENCE = 30.0
"""Seconds that an address which has answered before may fail, if it may recover by itself."""
PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts; the last one again and again."""

Result = TypeVar("Result")

_ROOM = "make room, or put the results elsewhere with --results"
_RIGHTS = "let these credentials list, read, write and delete there"
_RENEW = "renew them on this machine"
_ANSWER = "see whether the address is right, and this machine has a network"
_REGION = "set AWS_DEFAULT_REGION, or add ?region=… to the address"
_ERRNOS = {
    errno.ENOSPC: ("the disk is full", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("a file may not be so large there", "raise the limit, or use another disk"),
    errno.EACCES: ("no permission", "let this user read and write there"),
    errno.EPERM: ("no permission", "let this user read and write there"),
    errno.EROFS: ("the disk is read-only", "put the results elsewhere with --results"),
    errno.EIO: ("the disk fails", "see to it, or use another one"),
    errno.ESTALE: ("the shared folder is gone", "mount it again"),
    errno.ENOTDIR: ("a part of the path is a file", "move it out of the way"),
    errno.EISDIR: ("a folder lies where a file should", "move it out of the way"),
}
_WORDS = (
    ("NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", "no such bucket", "create it first"),
    ("Expired|EXPIRED", "the credentials have expired", _RENEW),
    (
        "could not find default credentials|Could not create a OAuth2 access token",
        "no credentials that are of use",
        "give this machine some: GOOGLE_APPLICATION_CREDENTIALS, or the instance's account",
    ),
    (
        "INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT|InvalidToken|INVALID_CLIENT_TOKEN|UNAUTHENTICATED"
        r"|INVALID_SIGNATURE|UNRECOGNIZED_CLIENT|HTTP status 401",
        "the credentials are not valid",
        "correct them on this machine",
    ),
    (
        "PermanentRedirect|AuthorizationHeaderMalformed|HTTP status 301|IllegalLocation",
        "the bucket lies in another region",
        _REGION,
    ),
    ("QuotaExceeded", "the quota is used up", _ROOM),
    ("ACCESS_DENIED|PERMISSION_DENIED|HTTP status 403", "access was refused", _RIGHTS),
    ("SLOW_DOWN|SlowDown|THROTTLING|RESOURCE_EXHAUSTED", "too many requests", "try again later"),
    ("NETWORK_CONNECTION|resolve hostname|UNAVAILABLE|CURL error", "no answer", _ANSWER),
    ("INTERNAL_FAILURE|HTTP status 5|SERVICE_UNAVAILABLE|REQUEST_TIMEOUT", "it fails", "wait"),
)
_PASSING = re.compile(
    "SLOW_DOWN|SlowDown|THROTTLING|RESOURCE_EXHAUSTED|NETWORK_CONNECTION|UNAVAILABLE|CURL error"
    "|INTERNAL_FAILURE|HTTP status 5|REQUEST_TIMEOUT|RequestTimeout|DEADLINE_EXCEEDED"
)
_PASSING_ERRNOS = (errno.EAGAIN, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT)
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_answered: set[str] = set()
_failing: dict[str, float] = {}


def asking(
    root: str,
    where: str,
    doing: str,
    call: Callable[[], Result],
    why: Callable[[], object] = lambda: None,
    patient: bool = True,
) -> Result:
    """What ``call`` returns, tried again for a while where the fault may pass.

    Args:
        root: names the file system: ``s3://bucket``, or "" for local disks.
        where: the file or folder.
        doing: ``written`` or ``read``.
        call: may be made any number of times.
        why: is made where a refusal came without a reason, and raises one that has it.
        patient: whether a fault that may pass is waited for.

    Raises:
        FileNotFoundError: there is no such file.
        StorageFailed: what is wrong, in a person's words.
    """
    attempts = 0
    while True:
        try:
            result = call()
        except FileNotFoundError:
            _well(root)
            raise
        except (OSError, pa.ArrowException) as error:
            since = _failing.setdefault(root, time.monotonic())
            is_over = time.monotonic() - since > PATIENCE
            if not (patient and root in _answered and _may_pass(error)) or is_over:
                raise explained(_with_reason(error, why), where, doing) from None
        else:
            _well(root)
            return result
        time.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
        attempts += 1


def _well(root: str) -> None:
    _answered.add(root)
    _failing.pop(root, None)


def _may_pass(error: Exception) -> bool:
    number = getattr(error, "errno", None)
    return number in _PASSING_ERRNOS or bool(_PASSING.search(str(error)))


def _with_reason(error: Exception, why: Callable[[], object]) -> Exception:
    """The error, or what a request says that is told reasons: the answer to HEAD has no text."""
    if "No response body" in str(error):
        try:
            why()
        except (OSError, pa.ArrowException) as told:
            return told
    return error


def explained(error: Exception, where: str, doing: str) -> StorageFailed:
    """What went wrong, for a person.

    Args:
        error: of the operating system or of pyarrow.
        where: the file or folder.
        doing: ``written`` or ``read``.
    """
    if isinstance(error, StorageFailed):
        return error
    number = getattr(error, "errno", None)
    text = f"{type(error).__name__}: {without_secrets(str(error))}".partition("\n")[0]
    found = _ERRNOS.get(number) if number else None
    if found is None:
        matches = (entry[1:] for entry in _WORDS if re.search(entry[0], str(error)))
        found = next(matches, (text[:300], "see to it"))
    return StorageFailed(where, f"cannot be {doing}: {found[0]}", found[1])


def without_secrets(text: str) -> str:
    """A text of others, without this machine's credentials."""
    for name in _KEYS:
        if len(secret := os.environ.get(name, "")) > 3:
            text = text.replace(secret, "…")
    return text
