"""Small files for their owner's eyes: mode 0600 from the first byte, whole or not there, on disk before we go on."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write `text` and a newline to `path`; a reader sees the old file or the new one."""
    with _draft(path, text) as draft:
        draft.replace(path)


def create_private(path: Path, make: Callable[[], str]) -> str:
    """The text of `path`; made and written where there is none. Processes that do so at once agree on one."""
    while True:
        try:
            return path.read_text("utf-8").strip()
        except FileNotFoundError:
            with _draft(path, make()) as draft:
                try:
                    # A link fails where a rename would overwrite what another process has just written.
                    os.link(draft, path)
                except FileExistsError:
                    continue


@contextmanager
def _draft(path: Path, text: str) -> Iterator[Path]:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        yield draft
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring the names in `folder` onto the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
