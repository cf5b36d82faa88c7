"""The file that a contact sheet is written to; what somebody else put there stays."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, PngImagePlugin

from clray.errors import BadInput
from clray.store import Folder

_MARK = ("Software", "clray")


def check_free(path: Path, chosen: bool, where: str) -> None:
    """Refuse, before anything is read, a place that no sheet can be written to.

    Args:
        path: of the PNG file.
        chosen: whether a person named it; otherwise only an older sheet is replaced.
        where: names the option in an error.

    Raises:
        BadInput: such a place.
    """
    if path.suffix.lower() != ".png":
        raise BadInput(where, str(path), "a file whose name ends in .png")
    if path.is_dir():
        raise BadInput(where, str(path), "a file, not a folder")
    if not path.parent.is_dir():
        raise BadInput(where, str(path), f"a file in a folder that exists, not in {path.parent}")
    if path.exists() and not chosen and not _is_sheet(path):
        accepted = f"{where} with another file: this one is no contact sheet of clray's"
        raise BadInput(where, str(path), accepted)


def save(sheet: Image.Image, path: Path, where: str) -> None:
    """Write the picture, at once.

    Raises:
        BadInput: it cannot be written there.
    """
    mark = PngImagePlugin.PngInfo()
    mark.add_text(*_MARK)
    content = io.BytesIO()
    sheet.save(content, "PNG", pnginfo=mark)
    try:
        Folder(str(path.parent), where).write(path.name, content.getvalue())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadInput(where, str(path), f"a file that can be written ({reason})") from None


def _is_sheet(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            return picture.info.get(_MARK[0]) == _MARK[1]
    except (OSError, ValueError, SyntaxError):
        return False
