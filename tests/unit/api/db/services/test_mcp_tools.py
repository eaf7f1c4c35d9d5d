"""MCP servers as tools, against a real one in a process of its own."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import capture_logs

from api.db.services import mcp_session
from api.db.services.mcp_tools import McpServers, tool_spec
from rag.core.blocking import Lane, run_in
from rag.core.clock import SystemClock
from rag.core.events import Done, ToolFinished, ToolStarted
from rag.core.tool_settings import McpServer, ToolSettings
from rag.llm.tool_round import ToolResult
from rag.testing.scripted_replies import ScriptedReplies, call, calls, says
from tests.servers.mcp_process import running_server
from tests.unit.api.db.services.talk import Talk, all_of, only
from tests.unit.api.db.services.world import TestClock, World


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running_server() as (url, _):
        yield url


def settings(url: str, *, timeout_s: float = 10, **more: Any) -> ToolSettings:
    return ToolSettings(mcp_servers={"srv": {"url": url, **more}}, timeout_s=timeout_s, rounds=3)  # type: ignore[dict-item]


@pytest.fixture
async def servers(address: str) -> AsyncIterator[McpServers]:
    made = McpServers(settings(address, headers={"X-Key": "k1"}), SystemClock())
    yield made
    await made.close()


async def used(servers: McpServers, name: str, **arguments: Any) -> ToolResult:
    (tool,) = [tool for tool in await servers.tools("srv") if tool.spec.name == f"srv__{name}"]
    return await tool.call(arguments)


async def test_a_servers_tools_are_told_with_names_that_every_provider_takes(servers: McpServers) -> None:
    specs = {tool.spec.name: tool.spec for tool in await servers.tools("srv")}
    assert {"srv__echo", "srv__slow", "srv__fail"} < specs.keys()
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in specs)
    (odd,) = [name for name in specs if "odd" in name]
    assert await used(servers, odd.removeprefix("srv__")) == ToolResult(text="odd")
    assert specs["srv__echo"].description == "Say it again."
    assert specs["srv__echo"].parameters["required"] == ["text"]


async def test_a_tool_is_called_and_its_words_come_back(servers: McpServers) -> None:
    assert await used(servers, "echo", text="hällo") == ToolResult(text="hällo")


async def test_headers_of_the_settings_reach_the_server(servers: McpServers) -> None:
    assert (await used(servers, "key")).text == "k1"


async def test_a_tool_that_fails_says_so(servers: McpServers) -> None:
    result = await used(servers, "fail")
    assert "out of order" in result.error


async def test_what_is_no_text_is_named(servers: McpServers) -> None:
    assert (await used(servers, "picture")).text == "[image/png, not shown]"


async def test_arguments_that_the_server_refuses_are_an_error_in_words(servers: McpServers) -> None:
    assert "text" in (await used(servers, "echo", wrong=1)).error


async def test_a_large_result_comes_whole_and_a_huge_one_is_refused(servers: McpServers) -> None:
    assert len((await used(servers, "huge", megabytes=1.5)).text) == 1.5 * (1 << 20)
    result = await used(servers, "huge", megabytes=50)
    assert result.error == "The tool failed: it says more than 4 MiB; ask it for less."


async def test_calls_run_side_by_side_each_in_a_session_of_its_own(servers: McpServers) -> None:
    texts = [f"text {n}" for n in range(12)]
    results = await asyncio.gather(*(used(servers, "echo", text=text) for text in texts))
    assert [result.text for result in results] == texts


async def counted(servers: McpServers, which: int, at_least: int) -> None:
    """Wait until the server has begun (0) or cancelled (1) that many slow calls."""
    async with asyncio.timeout(5):
        while int((await used(servers, "seen")).text.split()[which]) < at_least:
            await asyncio.sleep(0.02)


async def test_leaving_cancels_the_call_at_the_server_and_nothing_else(servers: McpServers) -> None:
    begun, cancelled = (int(count) for count in (await used(servers, "seen")).text.split())
    kept = asyncio.create_task(used(servers, "slow", seconds=1))
    left = asyncio.create_task(used(servers, "slow", seconds=30))
    await counted(servers, 0, begun + 2)
    at = time.monotonic()
    left.cancel()
    await asyncio.wait({left})
    assert time.monotonic() - at < 0.2
    assert left.cancelled()
    await counted(servers, 1, cancelled + 1)
    assert (await kept).text == "done"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_tool_that_takes_too_long_ends_at_its_timeout(address: str) -> None:
    servers = McpServers(settings(address, timeout_s=0.6), SystemClock())
    await servers.tools("srv")
    at = time.monotonic()
    result = await used(servers, "slow", seconds=30)
    assert "no reply within 0.6 seconds" in result.error
    assert time.monotonic() - at < 5
    await servers.close()


async def test_a_server_that_dies_in_the_middle_is_an_error_at_once() -> None:
    with running_server() as (url, _):
        servers = McpServers(settings(url, timeout_s=20), SystemClock())
        await servers.tools("srv")
        at = time.monotonic()
        result = await used(servers, "die")
        assert result.error.startswith("The tool failed: ")
        assert time.monotonic() - at < 5
        again = await used(servers, "echo", text="x")
        assert again.error == "The tool failed: it cannot be reached."
        await servers.close()


async def test_a_dead_server_has_no_tools_and_comes_back() -> None:
    clock = TestClock()
    with running_server() as (url, process):
        servers = McpServers(settings(url), clock)
        names = len(await servers.tools("srv"))
        assert names > 5
        process.kill()
        await run_in(Lane.FILES, process.wait)
        assert len(await servers.tools("srv")) == names
        clock.pass_s(301)
        assert await servers.tools("srv") == ()
        await servers.close()


async def test_the_list_is_asked_for_once_until_it_expires(address: str) -> None:
    clock = TestClock()
    servers = McpServers(settings(address), clock)
    one, *others = await asyncio.gather(*(servers.tools("srv") for _ in range(5)))
    assert all(other is one for other in others)
    assert await servers.tools("srv") is one
    clock.pass_s(301)
    assert await servers.tools("srv") is not one
    await servers.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/mcp", "http://no-such-host.invalid/mcp"])
async def test_a_server_that_is_not_there_costs_no_answer(world: World, url: str) -> None:
    tools = settings(url)
    servers = McpServers(tools, SystemClock())
    made = Talk(world, ScriptedReplies(says("Cash is 42 [ID:0].")), tools=tools, mcp=servers)
    events = await all_of(made.ask("cash?", dialog=made.dialog(prompt={"tools": ["srv"]})))
    assert only(events, Done).answer == "Cash is 42 [ID:0]."
    assert made.chat.requests[0].tools == ()
    await servers.close()


async def test_what_is_no_mcp_server_is_left_out(address: str) -> None:
    servers = McpServers(settings(address.removesuffix("/mcp") + "/nothing"), SystemClock())
    assert await servers.tools("srv") == ()
    await servers.close()


async def test_a_whole_answer_with_a_real_server(world: World, address: str) -> None:
    tools = settings(address)
    servers = McpServers(tools, SystemClock())
    chat = ScriptedReplies(calls(call("srv__echo", '{"text": "from afar"}')), says("It says so."))
    made = Talk(world, chat, tools=tools, mcp=servers)
    events = await all_of(made.ask("cash?", dialog=made.dialog(prompt={"tools": ["srv"]})))
    assert only(events, ToolFinished).error == ""
    assert chat.requests[1].turns[-1].content == "from afar"
    assert only(events, Done).answer.startswith("It says so.")
    await servers.close()


async def test_an_answer_that_is_left_in_the_middle_of_a_call_ends_at_once(world: World, address: str) -> None:
    tools = settings(address)
    servers = McpServers(tools, SystemClock())
    chat = ScriptedReplies(calls(call("srv__slow", '{"seconds": 30}')), says("x"))
    made = Talk(world, chat, tools=tools, mcp=servers)
    begun = int((await used(servers, "seen")).text.split()[0])
    async with aclosing(made.ask("cash?", dialog=made.dialog(prompt={"tools": ["srv"]}))) as events:
        async for event in events:
            if isinstance(event, ToolStarted):
                break
        await counted(servers, 0, begun + 1)
        at = time.monotonic()
    assert time.monotonic() - at < 0.2
    await servers.close()


async def test_closing_ends_the_thread_and_what_runs_in_it(address: str) -> None:
    servers = McpServers(settings(address), SystemClock())
    running_call = asyncio.create_task(used(servers, "slow", seconds=30))
    async with asyncio.timeout(5):
        while not any(thread.name == "mcp" for thread in threading.enumerate()):
            await asyncio.sleep(0.01)
    await servers.tools("srv")
    await servers.close()
    await asyncio.wait({running_call}, timeout=5)
    assert running_call.done()
    assert not any(thread.name == "mcp" for thread in threading.enumerate())


async def test_without_servers_nothing_is_started_or_loaded() -> None:
    servers = McpServers(ToolSettings(), SystemClock())
    await servers.warm()
    assert servers.names == frozenset()
    assert not any(thread.name == "mcp" for thread in threading.enumerate())
    await servers.close()


OBJECT: dict[str, Any] = {"type": "object"}


def test_names_that_fall_together_are_told_apart() -> None:
    first = tool_spec("s", "a b", "", OBJECT)
    assert first is not None
    second = tool_spec("s", "a.b", "", OBJECT, taken={first.name})
    assert second is not None
    assert first.name == "s__a_b"
    assert second.name != first.name
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", second.name)


UNUSABLE: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": "object", "x": "y" * 40_000},
    {"type": "object", "maximum": 2**64},
    {"type": "object", "title": "\ud800"},
]


@pytest.mark.parametrize("schema", UNUSABLE)
def test_schemas_that_cannot_be_used_are_left_out(schema: dict[str, Any]) -> None:
    assert tool_spec("s", "a", "", schema) is None


async def test_a_schema_that_cannot_be_written_again_costs_its_own_tool_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async def list_tools(server: McpServer, timeout_s: float) -> list[mcp_session.Listed]:
        schemas = {"good": OBJECT, "big": {"type": "object", "properties": {"n": {"maximum": 2**64}}}, "more": OBJECT}
        return [mcp_session.Listed(name=name, description="", parameters=schema) for name, schema in schemas.items()]

    monkeypatch.setattr(mcp_session, "list_tools", list_tools)
    servers = McpServers(settings("http://127.0.0.1:1/mcp"), SystemClock())
    with capture_logs() as logs:
        assert [tool.spec.name for tool in await servers.tools("srv")] == ["srv__good", "srv__more"]
    assert [(entry["event"], entry["tool"]) for entry in logs] == [("mcp_tool_unusable", "big")]
    await servers.close()


def test_a_schema_without_properties_gets_some() -> None:
    spec = tool_spec("s", "a", "", {"$schema": "http://json-schema.org/draft-07/schema#"})
    assert spec is not None
    assert spec.parameters == {"type": "object", "properties": {}}
