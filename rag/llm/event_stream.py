"""Server-sent events, read from bytes as they arrive."""

from rag.core.errors import ModelBadOutput

MAX_EVENT_BYTES = 16 << 20


class EventParser:
    """Collects the `data:` of each event. Lines end with LF or CRLF; other fields and comments are skipped."""

    def __init__(self) -> None:
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes.

        Raises:
            ModelBadOutput: an event is longer than `MAX_EVENT_BYTES`.
        """
        end = chunk.find(b"\n")
        if end == len(chunk) - 2 and chunk.endswith(b"\n\n") and chunk.startswith(b"data: ") and not self._open:
            return [chunk[6:-2]]  # One event and nothing else, as most reads of a stream are.
        if end < 0:
            # Kept apart until a line is whole: joining each time would be quadratic for a long one.
            self._tail.append(chunk)
            self._tail_bytes += len(chunk)
            self._check(self._tail_bytes)
            return []
        if self._tail:
            chunk = b"".join((*self._tail, chunk))
        *lines, rest = chunk.split(b"\n")
        self._tail, self._tail_bytes = ([rest] if rest else []), len(rest)
        return self._take(lines)

    def finish(self) -> list[bytes]:
        """The data of an event that the end of the stream left open."""
        lines, self._tail, self._tail_bytes = [b"".join(self._tail)], [], 0
        return self._take([*lines, b""])

    def _take(self, lines: list[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for raw in lines:
            line = raw[:-1] if raw.endswith(b"\r") else raw
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                if len(self._data) > 1:
                    self._data_bytes += len(line)
                    self._check(self._data_bytes)
            elif not line and self._data:
                events.append(b"\n".join(self._data) if len(self._data) > 1 else self._data[0])
                self._data, self._data_bytes = [], 0
        return events

    @property
    def _open(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._tail or self._data)

    @staticmethod
    def _check(size: int) -> None:
        if size > MAX_EVENT_BYTES:
            raise ModelBadOutput("The model's server sent an event without an end; is the address right?")
