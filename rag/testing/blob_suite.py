"""The contract of `rag.blob.base.BlobStore`. Subclass it and give `blobs()`."""

import asyncio
import hashlib
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from rag.blob.base import BlobStore, key_of
from rag.core.errors import InvalidInput, NotFound

_MIB = 1 << 20


def staged(folder: Path, content: bytes, name: str = "staged") -> tuple[Path, str]:
    """A file with `content`, and its hash."""
    path = folder / name
    path.write_bytes(content)
    return path, hashlib.sha256(content).hexdigest()


async def content_of(blobs: BlobStore, key: str) -> bytes:
    return b"".join([piece async for piece in blobs.open(key)])


class BlobSuite:
    """Tests that every file store passes."""

    def blobs(self, folder: Path) -> AbstractAsyncContextManager[BlobStore]:
        """An empty store; `folder` is its own."""
        raise NotImplementedError

    async def test_what_was_put_is_read(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"some bytes\x00\xff")
            key = await blobs.put_file(path, sha256=digest)
            assert key == key_of(digest) == f"{digest[:2]}/{digest}"
            assert await content_of(blobs, key) == b"some bytes\x00\xff"
            assert path.exists()

    async def test_an_empty_file_is_kept(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"")
            key = await blobs.put_file(path, sha256=digest)
            assert await content_of(blobs, key) == b""

    async def test_pieces_are_at_most_a_mebibyte(self, tmp_path: Path) -> None:
        content = bytes(range(256)) * (3 * 4096) + b"end"
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, content)
            key = await blobs.put_file(path, sha256=digest)
            pieces = [piece async for piece in blobs.open(key)]
            assert b"".join(pieces) == content
            assert max(map(len, pieces)) <= _MIB

    async def test_fetch_writes_the_content(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"x" * 3_000_000)
            key = await blobs.put_file(path, sha256=digest)
            target = tmp_path / "target"
            target.write_bytes(b"older, and longer" * 1_000_000)
            await blobs.fetch(key, target)
            assert target.read_bytes() == b"x" * 3_000_000

    async def test_the_same_bytes_again_give_the_same_key(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"same")
            keys = {await blobs.put_file(path, sha256=digest) for _ in range(2)}
            assert len(keys) == 1

    async def test_putting_the_same_bytes_at_once_works(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"same" * 100_000)
            keys = await asyncio.gather(*(blobs.put_file(path, sha256=digest) for _ in range(8)))
            assert set(keys) == {key_of(digest)}
            assert await content_of(blobs, keys[0]) == b"same" * 100_000

    async def test_many_files_in_one_call(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            files = [staged(tmp_path, b"file %d" % (number % 20), f"from{number}") for number in range(25)]
            keys = await blobs.put_files(files)
            assert keys == tuple(key_of(digest) for _, digest in files)
            assert [await content_of(blobs, key) for key in keys] == [b"file %d" % (n % 20) for n in range(25)]
            assert await blobs.put_files([]) == ()

    async def test_absent_content_is_not_found(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            with pytest.raises(NotFound):
                await content_of(blobs, key_of("0" * 64))
            with pytest.raises(NotFound):
                await blobs.fetch(key_of("0" * 64), tmp_path / "target")

    async def test_deleted_content_is_not_found_and_can_come_back(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"gone")
            key = await blobs.put_file(path, sha256=digest)
            await blobs.delete(key)
            with pytest.raises(NotFound):
                await content_of(blobs, key)
            await blobs.delete(key)
            blobs.discard(key)
            await blobs.put_file(path, sha256=digest)
            blobs.discard(key)
            with pytest.raises(NotFound):
                await content_of(blobs, key)
            await blobs.put_file(path, sha256=digest)
            assert await content_of(blobs, key) == b"gone"

    async def test_leaving_early_ends_the_reading(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, digest = staged(tmp_path, b"z" * (12 * _MIB))
            key = await blobs.put_file(path, sha256=digest)
            reader = blobs.open(key)
            assert len(await anext(reader)) > 0
            await reader.aclose()  # type: ignore[attr-defined]  # an async generator behind the Protocol

    @pytest.mark.parametrize("digest", ["", "../../etc/passwd", "0" * 63, "G" * 64, "0" * 64 + "\n"])
    async def test_only_hashes_make_keys(self, tmp_path: Path, digest: str) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            path, _ = staged(tmp_path, b"x")
            with pytest.raises(InvalidInput):
                await blobs.put_file(path, sha256=digest)

    async def test_check_names_the_backend(self, tmp_path: Path) -> None:
        async with self.blobs(tmp_path / "store") as blobs:
            assert await blobs.check()
