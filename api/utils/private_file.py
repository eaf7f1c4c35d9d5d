"""Small secret files in the data folder: mode 0600 from the first byte, replaced atomically."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write `text` and a newline to `path`, readable by its owner only; a reader sees the old file or the new."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_or_create(path: Path, make: Callable[[], str]) -> str:
    """The text of `path` without its newline; made and written first where there is none."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        text = make()
        write_private(path, text)
        return text
