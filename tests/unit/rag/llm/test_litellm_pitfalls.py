"""One test for each line of the table on LiteLLM in ../shared/pitfalls.md; `LINES` says which line is tested where."""

import ast
import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from rag.core.blocking import Lane, run_in
from rag.core.errors import InvalidInput, ModelError, ModelOverloaded, ModelTimeout
from rag.core.settings import load_settings
from rag.core.types import ToolCall, Turn
from rag.llm import litellm_port
from rag.llm.base import ChatRequest
from rag.llm.chat_model import LiteLLMBase
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.openai_lane import OpenAiLane
from rag.llm.registry import Registry, read_models_file
from rag.testing.chat_model_suite import a_request, said_by
from rag.testing.upstream import FaultyUpstream, Plan
from tests.unit.rag.llm.conftest import INFO, SECRET

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

ROOT = Path(__file__).resolve().parents[4]
TABLE = ROOT.parent / "shared" / "pitfalls.md"
SOURCES = [path for room in ("api", "rag", "bench") for path in sorted((ROOT / room).rglob("*.py"))]
OFFLINE = """
import json, socket, sys
tried = []
def refuse(*args):
    tried.append(str(args[-1]))
    raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from rag.nlp.tokens import count_tokens
found = {"tokens": count_tokens("Where is the office of Acme?"), "loaded_by_counting": "litellm" in sys.modules}
from rag.core.settings import load_settings
from rag.llm import litellm_port
from rag.llm.registry import Registry, read_models_file
lane = Registry(load_settings(environ={"OPENAI_API_KEY": "x"}))
lane.chat("gpt-4o@OpenAI")
lane.warm()
loaded = {"lane, warm": "litellm" in sys.modules}
other = Registry(load_settings(environ={"ANTHROPIC_API_KEY": "x"}))
loaded["litellm, cold"] = "litellm" in sys.modules
other.warm()
loaded["litellm, warm"] = "litellm" in sys.modules
print(json.dumps(found | {"loaded": loaded, "tried": tried, "prices": len(litellm_port.load().model_cost)}))
"""
HERE = "tests/unit/rag/llm/test_litellm_pitfalls.py::"
LITELLM = "tests/unit/rag/llm/test_litellm.py::"
LANE = "tests/unit/rag/llm/test_openai_lane.py::"
IMPORTS = "tests/unit/test_imports.py::"

LINES: dict[str, tuple[str, ...]] = {
    "Import takes 1.6 to 4.4 s": (
        f"{IMPORTS}test_libraries_stay_in_their_room",
        f"{IMPORTS}test_the_web_app_imports_nothing_heavy",
        f"{HERE}test_it_is_imported_while_warming_and_only_where_a_provider_needs_it",
    ),
    "Its `token_counter` and `tiktoken` work offline": (f"{HERE}test_tokens_are_counted_without_it_and_offline",),
    "The import fetches the price map": (f"{HERE}test_its_import_reaches_for_no_network",),
    "Async clients are cached per event loop": (f"{HERE}test_a_loop_that_ended_takes_no_connection_along",),
    "Leaving an `async for` by `break`": (
        f"{LITELLM}test_leaving_ends_the_request_at_the_provider",
        f"{HERE}test_leaving_or_cancelling_reaches_the_provider_in_time",
    ),
    "`stream_timeout=1` did not fire": (f"{HERE}test_deadlines_are_our_own",),
    "A failure in mid-stream arrives as": (f"{HERE}test_a_failure_is_told_by_what_had_come",),
    "A stream cut off without `finish_reason`": (f"{HERE}test_a_stream_that_was_cut_off_is_no_stop",),
    "A provider that sends no tool index": (
        f"{LITELLM}test_calls_however_they_are_numbered",
        f"{HERE}test_calls_without_an_index_are_not_glued_together",
    ),
    "Without `stream_options=": (f"{HERE}test_usage_is_always_asked_for_and_an_estimate_says_so",),
    "Retries: default 3 HTTP attempts": (f"{HERE}test_one_attempt_is_one_request",),
    "A request body that may set": (
        f"{LANE}test_a_request_cannot_turn_the_call_elsewhere",
        f"{HERE}test_a_request_cannot_name_another_host",
    ),
    "1.82.8 on PyPI was a compromised release": (f"{HERE}test_it_is_pinned_by_hash_and_its_proxy_is_not_imported",),
    "Streaming through `acompletion` costs": (f"{HERE}test_compatible_providers_are_read_by_our_own_lane",),
    "A shared `httpx.AsyncClient`": (f"{HERE}test_our_own_calls_to_providers_use_aiohttp",),
    "Joining all tokens that arrived in one read": (f"{LANE}test_what_arrived_together_leaves_together",),
    # What LiteLLM costs per request is a figure, measured in bench/; here: compatible providers do not pay it.
    "3.3 ms of CPU per request": (f"{HERE}test_compatible_providers_are_read_by_our_own_lane",),
}


@pytest.fixture
async def model(endpoint: Endpoint) -> AsyncIterator[LiteLLMBase]:
    await run_in(Lane.MODEL, litellm_port.load)
    yield LiteLLMBase(INFO, endpoint, deadlines=Deadlines())
    await litellm_port.close_clients()


@pytest.mark.parametrize("test", sorted({test for tests in LINES.values() for test in tests}))
def test_each_named_test_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    names = {
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in names


@pytest.mark.shared_data
@pytest.mark.skipif(not TABLE.is_file(), reason="needs ../shared/pitfalls.md")
def test_each_line_of_the_table_has_a_test() -> None:
    table = TABLE.read_text("utf-8").partition("## LiteLLM")[2].partition("\n## ")[0]
    facts = [line[2:] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(facts) == len(LINES)
    for fact in facts:
        assert [start for start in LINES if fact.startswith(start)], fact


@pytest.fixture(scope="module")
def offline() -> dict[str, Any]:
    """What a process found that cannot connect anywhere."""
    done = subprocess.run([sys.executable, "-c", OFFLINE], cwd=ROOT, env={}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_is_imported_while_warming_and_only_where_a_provider_needs_it(offline: dict[str, Any]) -> None:
    """Import takes 1.6 to 4.4 s and 150 MB: in a thread once the port is open and before `/readyz` says ready; never
    in a process that calls no model."""
    assert offline["loaded"] == {"lane, warm": False, "litellm, cold": False, "litellm, warm": True}


def test_tokens_are_counted_without_it_and_offline(offline: dict[str, Any]) -> None:
    """Count tokens without the import: `tiktoken` alone downloads."""
    assert offline["tokens"] == 8
    assert offline["loaded_by_counting"] is False


def test_its_import_reaches_for_no_network(offline: dict[str, Any]) -> None:
    """The import fetches the price map over the network, with retries: `LITELLM_LOCAL_MODEL_COST_MAP`."""
    assert offline["tried"] == []
    assert offline["prices"] > 1000


def test_a_loop_that_ended_takes_no_connection_along() -> None:
    """Async clients are cached per event loop; close the clients at shutdown while the loop still lives."""

    async def two_calls() -> list[str]:
        async with FaultyUpstream().serving() as upstream:
            endpoint = Endpoint(base_url=upstream.url, api_key=SecretStr(SECRET), model="m")
            model = LiteLLMBase(INFO, endpoint, deadlines=Deadlines())
            said = ["".join(d.text for d in await said_by(model, a_request())) for _ in range(2)]
            await litellm_port.close_clients()
            return said

    litellm_port.load()
    for _ in range(3):
        assert asyncio.run(two_calls()) == ["Hello, world."] * 2


@pytest.mark.parametrize("way", ["aclose", "cancel"])
async def test_leaving_or_cancelling_reaches_the_provider_in_time(
    model: LiteLLMBase, upstream: FaultyUpstream, way: str
) -> None:
    """Leaving an `async for` by `break` keeps the upstream request open: `aclose()` or cancelling the task ends it."""
    upstream.will(Plan(tokens=["a "] * 1000, wait_s=0.02))
    stream: Any = model.stream(a_request())
    await anext(stream)
    if way == "aclose":
        await stream.aclose()
    else:
        task = asyncio.ensure_future(_drained(stream))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    for _ in range(100):  # Left alone, it goes on for 20 s.
        if upstream.closed_early:
            break
        await asyncio.sleep(0.01)
    assert upstream.closed_early == 1


async def _drained(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(fault="hang_before"), "sent nothing within 0.4 s"),
        (Plan(fault="hang_midway"), "sent nothing for 0.4 s"),
        (Plan(tokens=["a "] * 100, wait_s=0.1), "did not finish within 1.2 s"),
    ],
)
async def test_deadlines_are_our_own(model: LiteLLMBase, upstream: FaultyUpstream, plan: Plan, words: str) -> None:
    """`stream_timeout=1` did not fire, `timeout=1` is per read: own deadlines for the first chunk, for each later
    chunk, and for the whole."""
    upstream.will(plan)
    hasty = Deadlines(first_token_s=0.4, next_token_s=0.4, answer_s=1.2)
    with pytest.raises(ModelTimeout, match=words):
        await said_by(LiteLLMBase(INFO, model._endpoint, deadlines=hasty), a_request())


@pytest.mark.parametrize("fault", ["reset_midway", "cut_midway", "error_in_stream"])
async def test_a_failure_is_told_by_what_had_come(model: LiteLLMBase, upstream: FaultyUpstream, fault: Any) -> None:
    """A failure in mid-stream arrives as `MidStreamFallbackError`: classify by your own state, before or after the
    first token."""
    for after, started in ((0, False), (2, True)):
        upstream.will(Plan(fault=fault, after=after, wait_s=0.02))
        with pytest.raises(ModelError) as caught:
            await said_by(model, a_request())
        assert type(caught.value) is ModelOverloaded
        assert caught.value.facts["started"] is started


async def test_a_stream_that_was_cut_off_is_no_stop(model: LiteLLMBase, upstream: FaultyUpstream) -> None:
    """A stream cut off without `finish_reason` is reported as `stop`: detect it."""
    for prefix in ("openai", "anthropic"):
        upstream.will(Plan(fault="no_finish"))
        deltas = await said_by(_with(model, upstream, prefix), a_request())
        assert "".join(d.text for d in deltas) == "Hello, "
        assert deltas[-1].finish == "cut_off"


@pytest.mark.parametrize("index", ["missing", "same"])
async def test_calls_without_an_index_are_not_glued_together(
    model: LiteLLMBase, upstream: FaultyUpstream, index: Any
) -> None:
    """A provider that sends no tool index gets index 0 for all calls: own assembler, a new `id` starts a new call."""
    calls = tuple(ToolCall(id=f"call_{n}", name="weather", arguments=f'{{"city": "No {n}"}}') for n in range(3))
    upstream.will(Plan(tokens=(), tool_calls=calls, tool_index=index, arguments_split=1))
    assert (await said_by(model, a_request()))[-1].tool_calls == calls


async def test_usage_is_always_asked_for_and_an_estimate_says_so(model: LiteLLMBase, upstream: FaultyUpstream) -> None:
    """Without `include_usage` there is no usage; always ask, estimate when absent and flag the figure as estimated."""
    upstream.will(Plan(), Plan(usage=False))
    told = (await said_by(model, a_request()))[-1].usage
    guessed = (await said_by(model, a_request()))[-1].usage
    assert [seen.body["stream_options"] for seen in upstream.requests] == [{"include_usage": True}] * 2
    assert told is not None
    assert (told.prompt_tokens, told.estimated) == (11, False)
    assert guessed is None or guessed.estimated


@pytest.mark.parametrize("prefix", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [429, 500, 503])
async def test_one_attempt_is_one_request(
    model: LiteLLMBase, upstream: FaultyUpstream, prefix: str, status: int
) -> None:
    """Retries: default 3 HTTP attempts on a 503; `max_retries=0`, and one retry loop of our own."""
    upstream.will(Plan(fault="status", status=status))
    with pytest.raises(ModelOverloaded) as caught:
        await said_by(_with(model, upstream, prefix), a_request())
    assert caught.value.facts["status"] == status
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("name", ["api_base", "base_url", "api_key", "extra_headers", "headers", "model", "timeout"])
async def test_a_request_cannot_name_another_host(model: LiteLLMBase, upstream: FaultyUpstream, name: str) -> None:
    """A request body that may set `api_base`/`base_url` leaks the provider key (CVE-2024-6587): allow-list."""
    request = ChatRequest(turns=(Turn(role="user", content="hi"),), extra={name: "http://evil.example"})
    with pytest.raises(InvalidInput, match=name):
        await said_by(model, request)
    assert upstream.requests == []


def test_it_is_pinned_by_hash_and_its_proxy_is_not_imported() -> None:
    """1.82.8 on PyPI was a compromised release: pin, with hashes; import only `litellm`, never `litellm.proxy`."""
    locked = (ROOT / "requirements" / "run.txt").read_text("utf-8")
    pin = re.search(r"^litellm==(\S+) \\\n((?:\s+--hash=sha256:[0-9a-f]{64}.*\n)+)", locked, re.M)
    assert pin is not None
    assert pin[1] != "1.82.8"
    assert "--require-hashes" in (ROOT / "Makefile").read_text("utf-8")
    proxied = re.compile(r"^\s*(import|from) litellm\.proxy|^\s*from litellm import .*\bproxy\b", re.M)
    assert [path for path in SOURCES if proxied.search(path.read_text("utf-8"))] == []


def test_compatible_providers_are_read_by_our_own_lane() -> None:
    """Streaming through `acompletion` costs about 500 µs of CPU per token: a fast lane for compatible streams."""
    providers = read_models_file().providers
    for name in ("OpenAI", "Groq", "DeepSeek", "xAI", "OpenRouter", "Ollama", "VLLM"):
        assert providers[name].transport == "lane", name
    registry = Registry(load_settings(environ={"OPENAI_API_KEY": "x", "GROQ_API_KEY": "x"}))
    for model in ("gpt-4o@OpenAI", "llama-3.3-70b-versatile@Groq"):
        assert isinstance(registry.chat(model), OpenAiLane)


def test_our_own_calls_to_providers_use_aiohttp() -> None:
    """A shared `httpx.AsyncClient` for upstream streams does quadratic work over idle connections."""
    for path in (ROOT / "rag").rglob("*.py"):
        assert re.search(r"^\s*(import|from) httpx\b", path.read_text("utf-8"), re.M) is None, path
    assert "aiohttp" in (ROOT / "rag" / "llm" / "upstream.py").read_text("utf-8")


def _with(model: LiteLLMBase, upstream: FaultyUpstream, prefix: str) -> LiteLLMBase:
    """`model` in another provider's format."""
    endpoint = model._endpoint
    if prefix == "anthropic":
        endpoint = replace(endpoint, base_url=upstream.root, litellm_prefix=prefix, model="claude-sonnet-4-5")
    return LiteLLMBase(INFO, endpoint, deadlines=model._deadlines)
