"""A server that sends bytes as they are, at the moments that a test wants."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """`data` as a chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def failed(status: int, body: bytes, *, length: int | None = None) -> bytes:
    """An error reply that says it has `length` bytes, those of `body` if None."""
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode() + b"%d\r\n\r\n" % (len(body) if length is None else length) + body


@asynccontextmanager
async def sending(segments: Sequence[bytes], *, wait_s: float = 0.03, reset: bool = False) -> AsyncIterator[str]:
    """The base address of a server that answers each request with `segments`, `wait_s` apart, and closes."""
    busy: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(lengths[0].split(b":")[1]) if lengths else 0)
            with suppress(ConnectionError, asyncio.CancelledError):
                for segment in segments:
                    writer.write(segment)
                    await writer.drain()
                    await asyncio.sleep(wait_s)
            if reset:
                writer.transport.abort()
        finally:
            writer.close()
            busy.discard(task)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
