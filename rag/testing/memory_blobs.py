"""Files in memory, for tests."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rag.blob.base import key_of
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import NotFound

_PIECE_BYTES = 1 << 20


class MemoryBlobs:
    """BlobStore of one process. `writes` counts contents that were really written."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.writes = 0

    async def put_file(self, source: Path, *, sha256: str) -> str:
        key = key_of(sha256)
        if key not in self.contents:
            self.contents[key] = await blocking.run_in(Lane.FILES, source.read_bytes)
            self.writes += 1
        return key

    async def put_files(self, files: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
        return tuple([await self.put_file(source, sha256=sha256) for source, sha256 in files])

    async def open(self, key: str) -> AsyncIterator[bytes]:
        content = self._content(key)
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES]

    async def fetch(self, key: str, target: Path) -> None:
        await blocking.run_in(Lane.FILES, target.write_bytes, self._content(key))

    async def delete(self, key: str) -> None:
        self.discard(key)

    def discard(self, key: str) -> None:
        self.contents.pop(key, None)

    async def check(self) -> str:
        return "memory"

    def _content(self, key: str) -> bytes:
        if key not in self.contents:
            raise NotFound("file", key)
        return self.contents[key]
