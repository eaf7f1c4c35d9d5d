import errno
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rag.blob.base import BlobStore, key_of
from rag.blob.object_store import ObjectBlobStore
from rag.core.errors import StoreUnavailable
from rag.testing.blob_suite import BlobSuite, content_of, staged
from rag.testing.memory_blobs import MemoryBlobs


class TestFolder(BlobSuite):
    @asynccontextmanager
    async def blobs(self, folder: Path) -> AsyncIterator[BlobStore]:
        yield ObjectBlobStore.in_folder(folder)


class TestObjectStoreThatStagesByItself(BlobSuite):
    """The path that S3 takes: no folder to stage in and to bring onto a disk."""

    @asynccontextmanager
    async def blobs(self, folder: Path) -> AsyncIterator[BlobStore]:
        from obstore.store import MemoryStore

        yield ObjectBlobStore(MemoryStore, place="memory")


class TestFake(BlobSuite):
    @asynccontextmanager
    async def blobs(self, folder: Path) -> AsyncIterator[BlobStore]:
        yield MemoryBlobs()


async def test_a_torn_file_under_the_key_is_replaced(tmp_path: Path) -> None:
    blobs = ObjectBlobStore.in_folder(tmp_path / "store")
    path, digest = staged(tmp_path, b"whole content")
    torn = tmp_path / "store" / key_of(digest)
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"who")
    assert await content_of(blobs, await blobs.put_file(path, sha256=digest)) == b"whole content"


async def test_bytes_are_on_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = ObjectBlobStore.in_folder(tmp_path / "store")
    path, digest = staged(tmp_path, b"content")
    final = tmp_path / "store" / key_of(digest)
    named_at_sync = []
    real = os.fsync

    def fsync(handle: int) -> None:
        named_at_sync.append(final.exists())
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    await blobs.put_file(path, sha256=digest)
    assert named_at_sync[0] is False
    assert named_at_sync[1:] == [True, True]


async def test_of_many_files_none_has_its_name_before_all_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    blobs = ObjectBlobStore.in_folder(folder)
    files = [staged(tmp_path, b"file %d" % number, f"from{number}") for number in range(20)]
    finals = [folder / key_of(digest) for _, digest in files]
    named: list[int] = []
    synced: set[str] = set()
    real = os.fsync

    def fsync(handle: int) -> None:
        named.append(sum(final.exists() for final in finals))
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    await blobs.put_files(files)
    assert named == [0] * 20 + [20] * (len(named) - 20)
    assert {str(final.parent) for final in finals} | {str(folder)} <= synced


async def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = ObjectBlobStore.in_folder(tmp_path / "store")
    path, digest = staged(tmp_path, b"content")

    def fsync(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreUnavailable, match="No space left"):
        await blobs.put_file(path, sha256=digest)
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


async def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    blobs = ObjectBlobStore.in_folder(tmp_path / "file" / "store")
    with pytest.raises(StoreUnavailable):
        await blobs.check()
