"""Files in any store that `obstore` speaks to; here: a folder."""

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rag.blob.base import key_of
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import NotFound, StoreUnavailable
from rag.core.ids import new_id

_PIECE_BYTES = 1 << 20
_STAGING = "staging"
_PROBE = "staging/probe"
_SYNCS_AT_ONCE = 4


class ObjectBlobStore:
    """Content-addressed files in an object store.

    Args:
        make: Builds the `obstore` store, at the first use.
        place: What it is called in messages.
        folder: The folder behind it, if there is one: writes are then staged beside their end and brought onto the
            disk before they get their name. Other stores write whole objects by themselves.
    """

    def __init__(self, make: Callable[[], Any], *, place: str, folder: Path | None = None) -> None:
        self._make = make
        self._place = place
        self._folder = folder
        self._store: Any = None

    @classmethod
    def in_folder(cls, folder: Path) -> "ObjectBlobStore":
        """Files below `folder`, which is created."""

        def make() -> Any:
            from obstore.store import LocalStore  # loaded at first use: start-up does not wait for it

            return LocalStore(folder, mkdir=True)

        return cls(make, place=str(folder), folder=folder)

    async def put_file(self, source: Path, *, sha256: str) -> str:
        """See `BlobStore`."""
        (key,) = await self.put_files([(source, sha256)])
        return key

    async def put_files(self, files: Sequence[tuple[Path, str]]) -> tuple[str, ...]:
        """See `BlobStore`."""
        keys = [key_of(sha256) for _, sha256 in files]
        wanted = {key: source for key, (source, _) in zip(keys, files, strict=True)}
        if wanted:
            await blocking.run_in(Lane.FILES, self._put_all, wanted)
        return tuple(keys)

    async def open(self, key: str) -> AsyncIterator[bytes]:
        """See `BlobStore`. An async generator."""
        async for piece in blocking.iterate(lambda: self._pieces(key), lane=Lane.FILES, buffer=4):
            yield piece

    async def fetch(self, key: str, target: Path) -> None:
        """See `BlobStore`."""
        await blocking.run_in(Lane.FILES, self._fetch, key, target)

    async def delete(self, key: str) -> None:
        """See `BlobStore`."""
        await blocking.run_in(Lane.FILES, self.discard, key)

    def discard(self, key: str) -> None:
        """See `BlobStore`."""
        import obstore

        with self._translated(key):
            try:
                obstore.delete(self._opened(), key)
            except FileNotFoundError:
                return

    async def check(self) -> str:
        """See `BlobStore`."""
        return await blocking.run_in(Lane.FILES, self._check)

    def _opened(self) -> Any:
        if self._store is None:
            self._store = self._make()
        return self._store

    def _put_all(self, wanted: Mapping[str, Path]) -> None:
        unknown = self._unknown(wanted)
        if self._folder is not None:
            with self._translated(self._place):
                self._put_in_folder(unknown, self._folder)
                # Those of known content too: whoever stores it at this moment may not have come to that.
                _sync_all([*dict.fromkeys((self._folder / key).parent for key in wanted), self._folder])
            return
        for key, source in unknown.items():
            with self._translated(key):
                self._write(source, key)

    def _unknown(self, wanted: Mapping[str, Path]) -> dict[str, Path]:
        """Those that are not stored yet."""
        unknown: dict[str, Path] = {}
        for key, source in wanted.items():
            size = source.stat().st_size
            with self._translated(key):
                if self._size(key) != size:
                    unknown[key] = source
        return unknown

    def _put_in_folder(self, unknown: Mapping[str, Path], folder: Path) -> None:
        """A name is given only to bytes that are on the disk, so that no crash leaves a torn file under it."""
        import obstore

        names: dict[str, str] = {}
        try:
            for key, source in unknown.items():
                names[key] = f"{_STAGING}/{new_id()}"
                self._write(source, names[key])
            _sync_all([folder / staged for staged in names.values()])
            for key, staged in names.items():
                obstore.rename(self._opened(), staged, key)
        except BaseException:
            for staged in names.values():
                (folder / staged).unlink(missing_ok=True)
            raise

    def _size(self, key: str) -> int | None:
        import obstore

        try:
            return int(obstore.head(self._opened(), key)["size"])
        except FileNotFoundError:
            return None

    def _write(self, source: Path, key: str) -> None:
        import obstore

        with source.open("rb") as file:
            obstore.put(self._opened(), key, file, chunk_size=_PIECE_BYTES)

    def _pieces(self, key: str) -> Iterator[bytes]:
        import obstore

        with self._translated(key):
            for piece in obstore.get(self._opened(), key).stream(min_chunk_size=_PIECE_BYTES):
                data = bytes(piece)
                for start in range(0, len(data), _PIECE_BYTES):
                    yield data[start : start + _PIECE_BYTES]

    def _fetch(self, key: str, target: Path) -> None:
        with self._translated(key), target.open("wb") as file:
            for piece in self._pieces(key):
                file.write(piece)

    def _check(self) -> str:
        import obstore

        with self._translated(_PROBE):
            obstore.put(self._opened(), _PROBE, b"probe")
            obstore.delete(self._opened(), _PROBE)
        kind = "folder" if self._folder is not None else "object store"
        return f"{kind} {self._place}"

    @contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise NotFound("file", key) from error
        except (BaseError, OSError) as error:
            raise StoreUnavailable(f"The files in {self._place!r} cannot be read or written: {error}") from error


def _sync_all(paths: Sequence[Path]) -> None:
    """Bring them onto the disk, some side by side: the disk then does several in one go."""
    if len(paths) <= _SYNCS_AT_ONCE:
        for path in paths:
            _sync(path)
        return
    with ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="sync") as pool:
        for _ in pool.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
