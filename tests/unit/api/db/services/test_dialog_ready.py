"""The prompt is put together beside the loop wherever something in it is long, and never beyond its bound."""

import threading
import time
import tracemalloc
from typing import Any

import pytest

from api.db.services.dialog_asking import Asking, Steps
from api.db.services.dialog_brief import AskOptions, brief_of_dialog
from api.db.services.dialog_ready import Found, prepared
from api.db.services.dialog_search import NOTHING
from api.db.services.llm_service import LLMBundle
from rag.core.clock import SystemClock
from rag.core.events import Done, Failed
from rag.core.types import ToolCall, Turn
from tests.unit.api.db.services.talk import Talk, all_of, chatter, only, spoken
from tests.unit.api.db.services.world import ANN, World

LONG = "long " * 10_000


def asking(made: Talk, *, system: str = "{x}", variables: dict[str, Any] | None = None, **more: Any) -> Asking:
    dialog = made.dialog(prompt={"system": system, "parameters": []}, dataset_ids=())
    return Asking(
        principal=ANN,
        brief=brief_of_dialog(dialog, AskOptions(variables=variables or {})),
        turns=spoken("Hi"),
        message_id="m",
        session_id="",
        arms=made.flags.arms(tenant_id=ANN.tenant_id, session_id=""),
        models=made.models,
        prompts=made.prompts,
        steps=Steps(SystemClock()),
        **more,
    )


@pytest.mark.parametrize(
    "more",
    [
        {"system": "{x}" * 50, "variables": {"x": LONG[:1000]}},
        {"summary": LONG},
        {"after": (Turn(role="tool", content=LONG, tool_call_id="1"),)},
        {"after": (Turn(role="assistant", content="", tool_calls=(ToolCall(id="1", name="x", arguments=LONG),)),)},
    ],
    ids=["values", "summary", "results", "calls"],
)
async def test_what_is_long_is_weighed_beside_the_loop(
    world: World, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    made = Talk(world, chatter("Hello."))
    where: set[int] = set()
    count = made.chat.count_tokens

    def counted(text: str) -> int:
        where.add(threading.get_ident())
        return count(text)

    monkeypatch.setattr(made.chat, "count_tokens", counted)
    asked = asking(made, **more)
    bundle: LLMBundle = asked.bundle()
    await prepared(asked, bundle, Found(question="Hi", hits=NOTHING, kit=None))
    assert where
    assert threading.get_ident() not in where


async def test_a_long_value_that_the_prompt_names_often_is_refused_by_name(world: World) -> None:
    made = Talk(world, chatter("Hello."))
    dialog = made.dialog(prompt={"system": "{knowledge}" + "{x}{y}" * 1000})
    options = AskOptions(variables={"x": "a" * 1_000_000, "y": "b"})
    began = time.process_time()
    failed = only(await all_of(made.ask("Hi", dialog=dialog, options=options)), Failed)
    assert time.process_time() - began < 2
    assert failed.code == "invalid_input"
    assert "The value of 'x' would take 1,000,000,000 characters" in failed.message
    assert made.retrieval.requests == []


async def test_a_long_value_that_the_prompt_does_not_name_is_no_matter(world: World) -> None:
    made = Talk(world, chatter("Hello."))
    dialog = made.dialog(prompt={"system": "Be brief. {knowledge}"})
    done = only(await all_of(made.ask("Hi", dialog=dialog, options=AskOptions(variables={"x": "a" * 10**6}))), Done)
    assert done.answer


async def test_instructions_of_a_call_that_the_prompt_repeats_are_bounded_too(world: World) -> None:
    made = Talk(world, chatter("Hello."))
    dialog = made.dialog(prompt={"system": "{wish 0}" * 1000})
    failed = only(await all_of(made.ask("Hi", dialog=dialog, options=AskOptions(wishes=("a" * 8000,)))), Failed)
    assert failed.code == "invalid_input"


async def test_sources_that_the_prompt_names_often_stay_within_the_room(world: World) -> None:
    made = Talk(world, chatter("Hello."), contents=["cash " * 800] * 6)
    dialog = made.dialog(prompt={"system": "{knowledge}" * 5000})
    tracemalloc.start()
    try:
        assert only(await all_of(made.ask("How much cash?", dialog=dialog)), Done).answer
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
