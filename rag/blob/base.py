"""Files: uploaded documents, addressed by content. The same bytes are stored once."""

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from rag.core.errors import InvalidInput

_SHA256 = re.compile(r"[0-9a-f]{64}")


def key_of(sha256: str) -> str:
    """The key of the content with this hash (64 lower-case hex digits, else InvalidInput)."""
    if not _SHA256.fullmatch(sha256):
        raise InvalidInput(f"{sha256!r} is not a sha256 in hex.")
    return f"{sha256[:2]}/{sha256}"


class BlobStore(Protocol):
    """Keys are made here: `<first 2 hex>/<sha256 hex>`. Raises StoreUnavailable when it cannot answer or is full."""

    async def put_file(self, source: Path, *, sha256: str) -> str:
        """Store the file under its content hash and return the key; known content is not written again.
        Durable when this returns: a torn write can never be read."""
        ...

    async def put_files(self, files: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
        """`put_file` for many files and their hashes, which share the waits for the disk. Returns the keys in order.
        Where one fails, some of the others may be stored."""
        ...

    def open(self, key: str) -> AsyncIterator[bytes]:
        """Yield the content in pieces of at most 1 MiB. Raises NotFound."""
        ...

    async def fetch(self, key: str, target: Path) -> None:
        """Write the content to `target`. Raises NotFound."""
        ...

    async def delete(self, key: str) -> None:
        """Remove it; absent is not an error."""
        ...

    def discard(self, key: str) -> None:
        """`delete` for a thread that may block: inside a row transaction, so that no upload comes in between."""
        ...

    async def check(self) -> str:
        """The backend's name and place, if it can be written."""
        ...
