"""Addresses of folders: which one holds the results, and that none of them holds a password."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlsplit

from clray.errors import BadInput

VARIABLE = "CLRAY_RESULTS"
"""The environment variable that says where results lie, unless a job or an option does."""
HERE = "results"
"""Where they lie otherwise."""
ACCEPTED = "a folder, s3://… or gs://…"
NO_PASSWORDS = (
    f"{ACCEPTED} without credentials: they come from the environment of the machine (such as "
    "AWS_PROFILE or an instance's role), never from an address"
)
OPTIONS = {
    "s3": {
        "allow_bucket_creation",
        "allow_bucket_deletion",
        "allow_delayed_open",
        "check_directory_existence_before_creation",
        "endpoint_override",
        "force_virtual_addressing",
        "region",
        "scheme",
        "smart_defaults",
        "tls_verify_certificates",
    },
    "gs": {"endpoint_override", "project_id", "retry_limit_seconds", "scheme"},
}
"""What may stand behind the ``?`` of an address, by scheme; the rest is a secret, or a slip."""
_SECRET = re.compile(r"(?<=://)(.*@|[^/]*:[^/]*)")
"""What stands before a bucket's name; a password may hold a slash."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")


def results_at(given: str | None, written: str | None = None) -> str:
    """Where results lie: as an option says, or a job, or ``$CLRAY_RESULTS``, or ``results`` here.

    Args:
        given: the option ``--results``.
        written: the job's ``results``.

    Raises:
        BadInput: an address that cannot be one, or that holds credentials.
    """
    told = {"--results": given, "results": written, VARIABLE: os.environ.get(VARIABLE) or None}
    for where, address in told.items():
        if address is not None:
            return checked(address, where)
    return HERE


def checked(address: str, where: str) -> str:
    """The address, if it may be one.

    Args:
        address: a local path, ``s3://bucket/path`` or ``gs://bucket/path``.
        where: names it in an error.

    Raises:
        BadInput: it cannot be one, or holds credentials; they are not repeated.
    """
    accepted = refusal(address)
    if accepted is not None:
        raise BadInput(where, shown(address), accepted)
    return address


def refusal(address: str) -> str | None:
    """What is accepted instead of an address; None: the address is."""
    if "://" not in address:
        return None if address.strip() and "\0" not in address else ACCEPTED
    try:
        parts = urlsplit(address)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
    except ValueError:
        return ACCEPTED
    if parts.scheme == "file":
        return None if not (parts.netloc or parts.query) else f"{ACCEPTED}, file:///PATH"
    if "@" in address or ":" in parts.netloc:  # anywhere: a password may hold a slash
        return NO_PASSWORDS
    accepted = OPTIONS.get("gs" if parts.scheme == "gcs" else parts.scheme)
    if accepted is None:
        return ACCEPTED
    if not _BUCKET.fullmatch(parts.netloc):
        return f"{ACCEPTED} with the name of a bucket"
    if unknown := sorted(set(options) - accepted):
        if any(word in name for name in unknown for word in ("key", "token", "secret", "pass")):
            return NO_PASSWORDS
        return f"options {', '.join(sorted(accepted))}, not {unknown[0]}"
    if empty := sorted(name for name, value in options.items() if not value):
        return f"a value of {empty[0]}"
    if parts.fragment or "//" in parts.path or {".", ".."} & set(parts.path.split("/")):
        return f"{ACCEPTED} without empty parts, . and .., or #"
    return None


def shown(address: str) -> str:
    """The address, as far as it may be shown: without what may be a secret."""
    path, mark, options = address.partition("?")
    known = OPTIONS["s3"] | OPTIONS["gs"]
    pairs = [pair.partition("=") for pair in options.split("&")] if mark else []
    told = [
        name + equals + (value if name in known and "@" not in value else "…")
        for name, equals, value in pairs
    ]
    return _SECRET.sub("…", path) + mark + "&".join(told)


def below(uri: str, name: str) -> str:
    """The address of what lies under a name in a folder."""
    path, mark, options = _cut(uri)
    return f"{path.rstrip('/')}/{name}{mark}{options}"


def above(uri: str, levels: int = 1) -> str:
    """The address of the folder that a folder lies in, so many levels up."""
    path, mark, options = _cut(uri)
    return path.rstrip("/").rsplit("/", levels)[0] + mark + options


def root(uri: str) -> str:
    """The address of the bucket, with its options."""
    path, mark, options = _cut(uri)
    return "/".join(path.split("/")[:3]) + mark + options


def last(uri: str) -> str:
    """The last part of an address."""
    return _cut(uri)[0].rstrip("/").rpartition("/")[2]


def _cut(uri: str) -> tuple[str, str, str]:
    return uri.partition("?") if "://" in uri else (uri, "", "")
