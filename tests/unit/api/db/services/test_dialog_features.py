"""Switched features, in both positions, where they act; the arm is in the usage row."""

from dataclasses import replace

import pytest

from api.db.services.records import ModelCall
from rag.core.settings import FeatureSettings
from rag.testing.scripted_chat import ScriptedChat
from tests.unit.api.db.services.talk import Talk, all_of, chatter
from tests.unit.api.db.services.world import World


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)


async def asked(world: World, *, with_tools: bool = False, **features: str) -> tuple[ScriptedChat, ModelCall]:
    """The model that was asked, and its usage row."""
    sink = Sink()
    chat = chatter("It is 42.")
    if with_tools:
        chat.info = replace(chat.info, capabilities=replace(chat.info.capabilities, tools=True))
    talk = Talk(world, chat, usage=sink, features=features)
    dialog = talk.dialog()
    if with_tools:
        dialog = replace(dialog, prompt_config=dialog.prompt_config | {"tools": ["search_knowledge"]})
    await all_of(talk.ask("What is it?", dialog=dialog))
    await talk.models.settle()
    return chat, next(call for call in sink.calls if call.purpose == "answer")


@pytest.mark.parametrize(
    ("position", "is_on"), [("on", True), ("off", False), ("tenants:ann", True), ("tenants:bob", False)]
)
async def test_prompt_caching_is_asked_for(world: World, position: str, is_on: bool) -> None:
    chat, call = await asked(world, prompt_caching=position)
    assert [request.cache_prefix for request in chat.requests] == [is_on]
    assert f"prompt_caching={'on' if is_on else 'off'}" in call.arm.split(",")


@pytest.mark.parametrize(("position", "is_on"), [("on", True), ("off", False), ("share:100", True), ("share:0", False)])
async def test_partial_tool_streaming_asks_for_fragments(world: World, position: str, is_on: bool) -> None:
    chat, call = await asked(world, with_tools=True, partial_tool_streaming=position)
    assert chat.requests[0].tools
    assert [request.tool_fragments for request in chat.requests] == [is_on]
    assert f"partial_tool_streaming={'on' if is_on else 'off'}" in call.arm.split(",")


@pytest.mark.parametrize("position", ["on", "off"])
async def test_summaries_are_told_in_the_row(world: World, position: str) -> None:
    _, call = await asked(world, summaries=position)
    assert f"summaries={position}" in call.arm.split(",")


async def test_what_settings_leave_open_has_an_arm_too(world: World) -> None:
    _, call = await asked(world, **FeatureSettings().model_dump())
    assert call.arm == "fallback=on,partial_tool_streaming=off,prompt_caching=on,summaries=on"
