"""Files of a multipart body, streamed to disk and hashed on the way; never whole in memory.

Quart's own parser keeps form fields in memory up to its limit and cuts the whole body off after a minute; here each
piece has its own deadline, and a field that is too large is refused as soon as it is.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import IO, Any, TypeVar

from quart import request
from werkzeug.exceptions import RequestEntityTooLarge, RequestTimeout
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from api.apps.envelope import uncaught
from api.apps.incoming import LIMIT_MARK
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.errors import StoreUnavailable

V = TypeVar("V", bound=Callable[..., Any])
FIELD_BYTES = 64 << 10
"""All form fields of one upload together."""
MOST_PARTS = 1000
PIECE_TIMEOUT_S = 60.0
_FLUSH_BYTES = 1 << 20
_UNREAD_BYTES = 256 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFile:
    """A file of the request, on disk until the request ends. `name` is what the client said, unchecked."""

    name: str
    path: Path
    size: int
    sha256: str


@dataclass(kw_only=True, slots=True)
class Upload:
    """`files` are the parts of the wanted field that have a file name, `nameless` counts those without."""

    files: list[StagedFile] = field(default_factory=list)
    nameless: int = 0
    fields: dict[str, str] = field(default_factory=dict)


def takes_upload(view: V) -> V:
    """Mark a view whose body may be as large as an upload."""
    setattr(view, LIMIT_MARK, True)
    return view


@asynccontextmanager
async def receive_upload(folder: Path, *, file_field: str = "file") -> AsyncIterator[Upload]:
    """Read the request's body; the staged files are removed at the end of the block.

    A body that is not multipart gives an empty upload.

    Raises:
        Refused: 100, the body is not well-formed multipart.
        RequestEntityTooLarge: form fields above `FIELD_BYTES`, too many parts, or the route's limit.
        RequestTimeout: no piece for `PIECE_TIMEOUT_S` seconds.
    """
    reader = _Reader(folder, file_field)
    try:
        boundary = request.mimetype_params.get("boundary", "")
        if request.mimetype == "multipart/form-data" and boundary:
            await reader.read(boundary.encode("latin-1", "replace"))
        yield reader.upload
    finally:
        await reader.clean()


class _Part:
    """A file being written; disk work runs in a thread, a mebibyte at a time."""

    def __init__(self, name: str, path: Path, file: IO[bytes]) -> None:
        self.name = name
        self.path = path
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    async def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        self.size += len(data)
        if self._waiting_bytes >= _FLUSH_BYTES:
            await self._flush()

    async def end(self) -> StagedFile:
        await self._flush()
        await blocking.run_in(Lane.FILES, self._file.close)
        return StagedFile(name=self.name, path=self.path, size=self.size, sha256=self._hash.hexdigest())

    def close(self) -> None:
        self._file.close()

    async def _flush(self) -> None:
        pieces, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if pieces:
            await blocking.run_in(Lane.FILES, self._store, b"".join(pieces))

    def _store(self, data: bytes) -> None:
        self._hash.update(data)
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise StoreUnavailable(f"The upload cannot be kept: {error.strerror}.") from error


class _Reader:
    def __init__(self, folder: Path, file_field: str) -> None:
        self.upload = Upload()
        self._folder = folder
        self._file_field = file_field
        self._paths: list[Path] = []
        self._making = Lock()
        self._over = False
        self._part: _Part | None = None
        self._field: tuple[str, bytearray] | None = None
        self._field_bytes = 0

    async def read(self, boundary: bytes) -> None:
        decoder = MultipartDecoder(boundary, max_form_memory_size=None, max_parts=MOST_PARTS)
        body = request.body.__aiter__()
        while True:
            try:
                async with asyncio.timeout(PIECE_TIMEOUT_S):
                    data = await anext(body, None)
            except TimeoutError as error:
                raise RequestTimeout from error
            try:
                if await self._take(decoder, data):
                    return
            except ValueError as error:  # werkzeug's word for malformed multipart
                raise uncaught("<BadRequest '400: Bad Request'>") from error

    async def _take(self, decoder: MultipartDecoder, data: bytes | None) -> bool:
        """Feed one piece; True after the last part."""
        decoder.receive_data(data)
        while True:
            event = decoder.next_event()
            if isinstance(event, Epilogue):
                return True
            if isinstance(event, NeedData):
                if data is None:
                    raise ValueError("the body ends within a part")
                if len(decoder.buffer) > _UNREAD_BYTES:  # headers without an end
                    raise RequestEntityTooLarge
                return False
            if isinstance(event, File):
                await self._begin_file(event)
            elif isinstance(event, Field):
                self._field = (event.name, bytearray())
            elif isinstance(event, Data):
                await self._add(event)

    async def _begin_file(self, event: File) -> None:
        if event.name != self._file_field or not event.filename:
            self.upload.nameless += event.name == self._file_field
            self._field = None
            return
        path, file = await blocking.run_in(Lane.FILES, self._create)
        self._part = _Part(event.filename, path, file)

    def _create(self) -> tuple[Path, IO[bytes]]:
        # A client that leaves cancels the wait for this thread, not the thread: it may come after `clean`.
        with self._making:
            if self._over:
                raise StoreUnavailable("The upload has ended.")
            file = tempfile.NamedTemporaryFile(  # noqa: SIM115  # closed by its part, removed by clean
                dir=self._folder, prefix="upload-", delete=False
            )
            self._paths.append(Path(file.name))
            return Path(file.name), file

    async def _add(self, event: Data) -> None:
        if self._part is not None:
            await self._part.write(event.data)
            if not event.more_data:
                self.upload.files.append(await self._part.end())
                self._part = None
        elif self._field is not None:
            name, value = self._field
            self._field_bytes += len(event.data)
            if self._field_bytes > FIELD_BYTES:
                raise RequestEntityTooLarge
            value.extend(event.data)
            if not event.more_data:
                self.upload.fields[name] = value.decode("utf-8", "replace")
                self._field = None

    async def clean(self) -> None:
        if self._part is not None:
            self._part.close()
        # A client that leaves can cancel this wait as well; work still in the queue would be dropped with it.
        await asyncio.shield(blocking.run_in(Lane.FILES, self._remove))

    def _remove(self) -> None:
        with self._making:
            self._over = True
            for path in self._paths:
                path.unlink(missing_ok=True)
