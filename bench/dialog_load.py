"""A hundred conversations at once over indexed reports, and how a prompt grows over two hundred messages.

Each conversation is a stored session that asks a new question over the contract's route: a retrieval, then an answer
that an OpenAI-compatible upstream streams. Upstream and client share a core; the server has both.
"""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx

from bench.harness import Row, Server, call, ingest, median, publish, quantile
from bench.model_peers import Upstream, upstream
from bench.reports import PDFS, questions, read
from rag.llm.token_estimate import estimate_tokens
from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess

CONVERSATIONS = 100
STARTED_OVER_S = 10.0
TOKENS_PER_S = 20
TOKENS = 300
"""Of an answer: fifteen seconds of speech, so that the first one still speaks when the last one begins."""
FIRST_MS = 200
MOST_OVER_MS = 150
MOST_LAG_MS = 50
MOST_FIRST_TOKENS = 2
"""A frame that waits for more than what has come would have sixteen."""
LAG_WINDOW_S = 10.0
SETTLED_S = 40.0
"""The index is compacted when the worker has been idle for a while."""
ASPECTS = ("", "Give the figure and the year. ", "Explain how it is computed. ")

EARLY, LATE = 20, 200
MOST_GROWN = 1.1
BETWEEN_S = 0.05
"""Between two turns; people take longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """One answer as its client saw it: ms to the first text, and how many of the upstream's tokens came with it."""

    first_ms: float
    first_tokens: int


@contextmanager
def server(url: str) -> Iterator[Server]:
    """A warm server whose OpenAI is at `url`."""
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as folder:
        environ = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": url, "PYTHONDONTWRITEBYTECODE": ""}
        running = Server(Path(folder) / "data", environ)
        try:
            running.wait("/readyz")
            yield running
        finally:
            running.stop()


def asked() -> list[str]:
    """A question of its own for each conversation, all about the reports."""
    plain = [item["question"] for item in questions()]
    found = [aspect + question for aspect in ASPECTS for question in plain]
    return found[:CONVERSATIONS]


def prepared(client: httpx.Client) -> tuple[str, list[str]]:
    """The id of a chat over the sixteen reports, and those of its sessions."""
    dataset = call(client, "POST", "/api/v1/datasets", json={"name": "reports"})["id"]
    ingest(client, dataset, read(sorted(PDFS.glob("*.pdf"))))
    # Without an `empty_response` the model answers whatever was found.
    body = {"name": "bench", "dataset_ids": [dataset], "prompt": {"empty_response": ""}}
    chat = call(client, "POST", "/api/v1/chats", json=body)["id"]
    path = f"/api/v1/chats/{chat}/sessions"
    return chat, [call(client, "POST", path, json={"name": f"{n}"})["id"] for n in range(CONVERSATIONS)]


async def started_over(count: int, seconds: float, one: Any) -> list[Any]:
    """The results of `one(0)`, `one(1)` and so on, begun in even steps over `seconds`."""

    async def later(number: int) -> Any:
        await asyncio.sleep(seconds * number / count)
        return await one(number)

    return list(await asyncio.gather(*map(later, range(count))))


async def direct_ms(behind: Upstream) -> list[float]:
    """Milliseconds to the first token of the upstream itself, under the same load."""
    body = {"model": "mock", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def one(_: int) -> float:
            began, first = time.perf_counter(), None
            async with http.post(f"{behind.url}/v1/chat/completions", json=body) as response:
                async for piece in response.content.iter_any():
                    if first is None and b"~" in piece:
                        first = (time.perf_counter() - began) * 1000
            assert first is not None
            return first

        return await started_over(CONVERSATIONS, STARTED_OVER_S, one)


class LagWatch:
    """Reads the server's gauge of its loop's longest hold, in seconds, for as long as the block lasts."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/metrics"
        self._task: asyncio.Task[None] | None = None
        self.worst_s = 0.0

    async def __aenter__(self) -> "LagWatch":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                await asyncio.sleep(LAG_WINDOW_S / 5)
                async with http.get(self._url) as response:
                    found = re.search(r"^parley_loop_lag_seconds (\S+)", await response.text(), re.MULTILINE)
                assert found is not None
                self.worst_s = max(self.worst_s, float(found[1]))


async def spoken(running: Server, chat: str, sessions: list[str]) -> tuple[list[Spoken], float]:
    """What each client saw, and the longest hold of the server's loop meanwhile in seconds.

    Raises:
        RuntimeError: an answer failed or is not whole.
    """
    wanted = asked()
    headers = {"Authorization": f"Bearer {running.key}"}
    url = f"{running.url}/api/v1/chats/{chat}/completions"
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=headers, read_bufsize=1 << 22, timeout=aiohttp.ClientTimeout()
    )

    async def one(number: int) -> Spoken:
        ask = {"question": wanted[number], "session_id": sessions[number], "stream": True}
        began, first, answer = time.perf_counter(), None, ""
        async with http.post(url, json=ask) as response:
            async for line in response.content:
                data = json.loads(line[5:])["data"] if line.startswith(b"data:") else None
                text = data.get("answer", "") if isinstance(data, dict) else ""
                if text and first is None:
                    first = Spoken(first_ms=(time.perf_counter() - began) * 1000, first_tokens=text.count("~"))
                answer = text or answer
        if first is None or answer.count("~") != TOKENS:
            raise RuntimeError(f"answer {number} has {answer.count('~')} of {TOKENS} tokens: {answer[-200:]!r}")
        return first

    async with http, LagWatch(running.url) as lag:
        seen = await started_over(CONVERSATIONS, STARTED_OVER_S, one)
    return seen, lag.worst_s


def load_rows() -> list[Row]:
    """First tokens, first frames and lag of the loop with a hundred conversations."""
    with upstream() as behind, server(f"{behind.url}/v1") as running, running.client() as client:
        behind.pace(first_ms=FIRST_MS, gap_ms=1000 / TOKENS_PER_S, tokens=TOKENS)
        chat, sessions = prepared(client)
        time.sleep(SETTLED_S)
        alone = asyncio.run(direct_ms(behind))
        seen, lag_s = asyncio.run(spoken(running, chat, sessions))
    over = [one.first_ms - median(alone) for one in seen]
    tokens = [one.first_tokens for one in seen]
    p95 = quantile([one.first_ms for one in seen], 0.95) - quantile(alone, 0.95)
    what = f"{CONVERSATIONS} conversations at {TOKENS_PER_S} tokens/s, begun over {STARTED_OVER_S:.0f} s"
    return [
        Row(
            f"{what}: first token over the upstream's, p95",
            f"{p95:.0f} ms (p50 {median(over):.0f})",
            f"<= {MOST_OVER_MS} ms",
            p95 <= MOST_OVER_MS,
            {"over_ms": over, "upstream_ms": alone},
        ),
        Row("longest hold of the loop", f"{lag_s * 1000:.0f} ms", f"<= {MOST_LAG_MS} ms", lag_s * 1000 <= MOST_LAG_MS),
        Row(
            "tokens in the first frame, p95",
            f"{quantile(tokens, 0.95):.0f} (most {max(tokens)})",
            f"<= {MOST_FIRST_TOKENS}",
            quantile(tokens, 0.95) <= MOST_FIRST_TOKENS,
        ),
    ]


def growth_rows() -> list[Row]:
    """Tokens of the prompt at message 200 of a session against those at message 20.

    Questions and answers are of like length, so that only the number of turns differs.
    """
    reply = [
        "The ",
        "committee ",
        "heard ",
        "the ",
        "report ",
        "on ",
        "bridges ",
        "and ",
        "waited ",
        "for ",
        "more. ",
    ] * 6
    with UpstreamProcess() as behind, server(behind.url) as running, running.client() as client:
        behind.will(Plan(tokens=tuple(reply)))
        chat = call(client, "POST", "/api/v1/chats", json={"name": "bench"})["id"]
        session = call(client, "POST", f"/api/v1/chats/{chat}/sessions", json={"name": "long"})["id"]
        sizes: dict[int, int] = {}
        for turn in range(1, LATE // 2 + 1):
            question = f"Question {turn:03}: what was said of bridge number {turn:03}, its paint and its rivets?"
            behind.clear()
            ask = {"question": question, "session_id": session, "stream": False}
            call(client, "POST", f"/api/v1/chats/{chat}/completions", json=ask)
            time.sleep(BETWEEN_S)
            sizes[2 * turn] = prompt_tokens([one.body for one in behind.seen()], question)
    grown = sizes[LATE] / sizes[EARLY]
    return [
        Row(
            f"turn at message {LATE} against message {EARLY}: tokens of the prompt",
            f"{sizes[LATE]} against {sizes[EARLY]}: {grown:.2f} times (most {max(sizes.values())})",
            f"<= {MOST_GROWN} times",
            grown <= MOST_GROWN,
            {"tokens": sizes},
        )
    ]


def prompt_tokens(bodies: list[dict[str, Any]], question: str) -> int:
    """Of the request that ends with `question`; others make summaries.

    Raises:
        RuntimeError: there is none.
    """
    for body in bodies:
        messages = body.get("messages") or [{}]
        if messages[-1].get("content") == question:
            return sum(estimate_tokens(str(message["content"])) for message in messages)
    raise RuntimeError(f"no request asks {question!r}")


def main() -> bool:
    return publish("dialog_load", [*growth_rows(), *load_rows()])


if __name__ == "__main__":
    raise SystemExit(0 if main() else 1)
