"""A turn with a tool, next to one that decides and answers in calls of their own; and memory over many calls."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import psutil

from bench.harness import Row, Server, call, ingest, median
from bench.model_peers import Target, Upstream
from rag.core.types import ToolCall
from rag.testing.upstream_plan import Plan
from rag.testing.upstream_process import UpstreamProcess

UPSTREAM_S = 0.3
TOOL_TURNS = 9
LEAST_SAVED = 0.30
NOTES = b"The Aldermoor bridge was opened in 1932. It is painted every six years.\n"
QUESTION = "When was the Aldermoor bridge opened?"
CALLS, LEAVERS, AT_ONCE = 10_000, 2_000, 32
MOST_GROWN = 0.05


def tool_rows(folder: Path) -> list[Row]:
    """How long a turn takes in which the model searches once, upstream 300 ms per request."""
    search = ToolCall(id="call_1", name="search_knowledge", arguments=json.dumps({"query": QUESTION}))
    with UpstreamProcess() as upstream:
        upstream.will(
            Plan(tokens=("In ", "1932 ", "[ID:0]."), tool_calls=(search,), tools_first=True, first_wait_s=UPSTREAM_S)
        )
        environ = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": upstream.url, "PYTHONDONTWRITEBYTECODE": ""}
        running = Server(folder, environ)
        try:
            running.wait("/readyz")
            with running.client() as client:
                dataset = call(client, "POST", "/api/v1/datasets", json={"name": "notes"})["id"]
                ingest(client, dataset, [("bridge.md", NOTES)])
                chat = {"name": "bench", "dataset_ids": [dataset], "prompt": {"agentic": True}}
                call(client, "POST", "/api/v1/chats", json=chat)
                one, separate = [], []
                for _ in range(TOOL_TURNS):
                    upstream.clear()
                    one.append(_tool_turn_s(client))
                    asked = len(upstream.seen())
                    separate.append(_separate_turn_s(client, upstream.url, dataset))
        finally:
            running.stop()
    saved = 1 - median(one) / median(separate)
    figure = f"{median(one) * 1000:.0f} against {median(separate) * 1000:.0f} ms: {saved:.0%} less"
    values = {"one": one, "separate": separate, "requests": asked}
    what = f"tool turn, upstream 300 ms per request, {asked} requests; separate decide and answer calls"
    return [Row(what, figure, f">= {LEAST_SAVED:.0%} less", saved >= LEAST_SAVED and asked == 2, values)]


def _tool_turn_s(client: httpx.Client) -> float:
    began = time.perf_counter()
    body = {"model": "chat:bench", "messages": [{"role": "user", "content": QUESTION}]}
    reply = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    if "1932" not in reply["choices"][0]["message"]["content"]:
        raise RuntimeError(f"no answer: {reply}")
    return time.perf_counter() - began


def _separate_turn_s(client: httpx.Client, url: str, dataset: str) -> float:
    """The same work in three requests: decide on a tool, decide that there is enough, then answer."""
    began = time.perf_counter()
    schema = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    tools = [{"type": "function", "function": {"name": "search_knowledge", "parameters": schema}}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]

    def ask(**more: Any) -> dict[str, Any]:
        body = {"model": "mock", "messages": messages, **more}
        reply = httpx.post(f"{url}/chat/completions", json=body, trust_env=False, timeout=30).raise_for_status()
        message: dict[str, Any] = reply.json()["choices"][0]["message"]
        return message

    decided = ask(tools=tools)
    found = call(client, "POST", "/api/v1/retrieval", json={"question": QUESTION, "dataset_ids": [dataset]})
    for made in decided["tool_calls"]:
        messages += [decided, {"role": "tool", "tool_call_id": made["id"], "content": json.dumps(found)}]
    ask(tools=tools)
    ask()
    return time.perf_counter() - began


def memory_rows(ours: Target, behind: Upstream) -> list[Row]:
    """Resident memory of the web process after each thousand calls; a fifth of the clients leave in the middle."""
    behind.pace(first_ms=5, gap_ms=2, tokens=10)
    assert ours.pid is not None
    sizes = asyncio.run(_many_calls(ours, psutil.Process(ours.pid)))
    base, most = sizes[1], max(sizes[1:])
    grown = most / base - 1
    figure = f"{base:.0f} MB after the second thousand, {most:.0f} MB at the most: {grown:+.1%}"
    what = f"memory over {CALLS:,} calls with {LEAVERS:,} that leave"
    return [Row(what, figure, f"within {MOST_GROWN:.0%}", grown <= MOST_GROWN, {"mb": sizes})]


async def _many_calls(ours: Target, process: psutil.Process) -> list[float]:
    dice = random.Random(5)
    leavers = frozenset(dice.sample(range(CALLS), LEAVERS))
    numbers = iter(range(CALLS))
    sizes: list[float] = []
    headers = {"Authorization": f"Bearer {ours.key}"}
    body = {"model": ours.model, "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as http:

        async def client() -> None:
            for number in numbers:
                async with http.post(ours.url, json=body) as response:
                    response.raise_for_status()
                    async for _ in response.content.iter_any():
                        if number in leavers:
                            response.close()
                            break
                if (number + 1) % 1000 == 0:
                    sizes.append(process.memory_info().rss / 2**20)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return sizes
