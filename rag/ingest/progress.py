"""How far one document is: stage, counts and the message lines, kept in memory until somebody writes them down."""

from rag.core.clock import Clock
from rag.ingest.base import Job, Report, Stage

_BEGIN: dict[Stage, float] = {
    "queued": 0.01,
    "parsing": 0.02,
    "chunking": 0.40,
    "embedding": 0.45,
    "indexing": 0.95,
    "done": 0.99,
}
_END: dict[Stage, float] = {
    "queued": 0.02,
    "parsing": 0.40,
    "chunking": 0.45,
    "embedding": 0.95,
    "indexing": 0.99,
    "done": 0.99,
}


class Track:
    """The progress of one job. Changed on the event loop only; `report()` is a frozen copy."""

    def __init__(self, job: Job, clock: Clock) -> None:
        self.job = job
        self._clock = clock
        self._began = clock.monotonic()
        self._stage: Stage = "queued"
        self._stage_began = self._began
        self._messages: list[str] = []
        self._pages = (0, 0)
        self._chunks = (0, 0)
        self._embed_tokens = 0
        self._embed_s = 0.0

    def enter(self, stage: Stage) -> None:
        """Begin a stage; its time counts from now."""
        self._stage = stage
        self._stage_began = self._clock.monotonic()

    def pages(self, done: int, total: int) -> None:
        self._pages = (min(done, total) if total else done, total)

    def chunks(self, done: int, total: int) -> None:
        self._chunks = (done, total)

    def embedded(self, tokens: int) -> None:
        """Count what the model has read for it; the stage's time so far is the model's."""
        self._embed_tokens += tokens
        self._embed_s = self.stage_s()

    def say(self, text: str) -> None:
        """Add a line `HH:MM:SS text` (UTC)."""
        self._messages.append(f"{self._clock.now():%H:%M:%S} {text}")

    def stage_s(self) -> float:
        """Seconds since the stage began."""
        return self._clock.monotonic() - self._stage_began

    def total_s(self) -> float:
        """Seconds since the job was claimed."""
        return self._clock.monotonic() - self._began

    def report(self) -> Report:
        """The state now. The fraction never leaves the open interval (0, 1): 0 and 1 mean other things."""
        done, total = self._chunks if self._stage == "embedding" else self._pages
        share = done / total if total and self._stage in ("parsing", "embedding") else 0.0
        low, high = _BEGIN[self._stage], _END[self._stage]
        return Report(
            job=self.job,
            stage=self._stage,
            fraction=round(low + (high - low) * min(share, 1.0), 4),
            messages=tuple(self._messages),
            pages_done=self._pages[0],
            pages_total=self._pages[1],
            chunks_done=self._chunks[0],
            chunks_total=self._chunks[1],
            embed_tokens=self._embed_tokens,
            embed_ms=self._embed_s * 1000,
        )
