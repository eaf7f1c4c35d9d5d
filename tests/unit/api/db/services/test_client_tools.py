"""A client's own tools, forms of the reply and further instructions, on their way through the pipeline."""

from typing import Any

import pytest

from api.db.services.dialog_brief import AskOptions, ReplyForm
from rag.core.events import Cited, Done, Failed, RetrievalFinished, Token, ToolStarted
from rag.core.types import ToolCall, Turn
from rag.llm.base import Capabilities, ChatRequest, ReplySchema, ToolSpec
from rag.testing.scripted_chat import ABLE
from tests.unit.api.db.services.talk import Talk, all_of, chatter, only
from tests.unit.api.db.services.world import ANN, World

WEATHER = ToolSpec(name="weather", description="Now.", parameters={"type": "object", "properties": {}})
CALL = ToolCall(id="c1", name="weather", arguments='{"at": "Bern"}')
TOOLS = AskOptions(form=ReplyForm(tools=(WEATHER,), parallel_tools=False))
QUESTION = Turn(role="user", content="cash?")
CALLED = Turn(role="assistant", content="", tool_calls=(CALL,))
RESULT = Turn(role="tool", content="Rain.", tool_call_id="c1")


def talk(world: World, script: Any, **more: Any) -> Talk:
    return Talk(world, chatter(script, **more))


def ask(made: Talk, *turns: Turn, options: AskOptions = TOOLS, **prompt: Any) -> Any:
    dialog = made.dialog(prompt={"tools": ["search_knowledge"], "refine_multiturn": False, **prompt})
    return made.dialogs.chat(ANN, dialog, turns or (QUESTION,), options=options, message_id="m")


async def test_calls_end_the_answer_and_nothing_is_run(world: World) -> None:
    made = talk(world, [[CALL]])
    events = await all_of(ask(made))
    done = only(events, Done)
    assert (done.answer, done.tool_calls, done.reference.chunks) == ("", (CALL,), ())
    assert not [event for event in events if isinstance(event, ToolStarted | Cited)]
    (request,) = made.chat.requests
    assert (request.tools, request.parallel_tools, request.tool_choice) == ((WEATHER,), False, "auto")
    assert only(events, RetrievalFinished).reference.chunks


async def test_text_beside_calls_is_cited(world: World) -> None:
    made = talk(world, [["Cash is 42 [ID:0]. ", CALL]])
    done = only(await all_of(ask(made)), Done)
    assert done.tool_calls == (CALL,)
    assert done.answer.startswith("Cash is 42 [ID:0].")
    assert done.reference.chunks


async def test_results_stand_behind_the_question_that_was_searched_for(world: World) -> None:
    made = talk(world, "It rains.")
    earlier = (Turn(role="user", content="debt?"), CALLED, RESULT, Turn(role="assistant", content="It rained."))
    done = only(await all_of(ask(made, *earlier, QUESTION, CALLED, RESULT)), Done)
    assert done.answer.startswith("It rains.")
    assert [request.question for request in made.retrieval.requests] == ["cash?"]
    roles = [(turn.role, turn.content) for turn in made.chat.requests[0].turns[1:]]
    assert roles == [
        ("user", "debt?"),
        ("assistant", ""),
        ("tool", "Rain."),
        ("assistant", "It rained."),
        ("user", "cash?"),
        ("assistant", ""),
        ("tool", "Rain."),
    ]


async def test_a_history_that_is_cut_keeps_calls_with_their_results(world: World) -> None:
    made = talk(world, "Yes.", context_tokens=1200)
    earlier = [Turn(role="user", content="word " * 100), CALLED, RESULT, Turn(role="assistant", content="Done.")] * 20
    await all_of(ask(made, *earlier, QUESTION))
    turns = made.chat.requests[0].turns[1:]
    assert len(turns) < 81
    waiting: set[str] = set()
    for turn in turns:
        assert turn.role != "tool" or turn.tool_call_id in waiting
        waiting = {call.id for call in turn.tool_calls} if turn.role != "tool" else waiting


async def test_calls_that_nobody_offered_are_no_answer(world: World) -> None:
    made = talk(world, [[CALL]])
    failed = only(await all_of(ask(made, options=AskOptions(), tools=[])), Failed)
    assert "gave no answer" in failed.message


async def test_what_is_said_when_nothing_is_found_does_not_keep_tools_back(world: World) -> None:
    made = Talk(world, chatter([[CALL]]), contents=())
    assert only(await all_of(ask(made, empty_response="Sorry!")), Done).tool_calls == (CALL,)
    plain = await all_of(ask(made, options=AskOptions(), tools=[], empty_response="Sorry!"))
    assert only(plain, Done).answer == "Sorry!"


@pytest.mark.parametrize(
    ("form", "able", "lacking"),
    [
        (ReplyForm(tools=(WEATHER,)), Capabilities(json_schema=True), "use tools"),
        (ReplyForm(schema=ReplySchema(name="a", schema={})), Capabilities(tools=True), "keep to a JSON schema"),
        (ReplyForm(json_object=True), Capabilities(), "write JSON"),
    ],
)
async def test_what_a_model_cannot_is_said_before_anything_is_searched(
    world: World, form: ReplyForm, able: Capabilities, lacking: str
) -> None:
    made = talk(world, "x", local=True, capabilities=able)
    failed = only(await all_of(ask(made, options=AskOptions(form=form))), Failed)
    assert (failed.code, lacking in failed.message) == ("invalid_input", True)
    assert made.retrieval.requests == []


@pytest.mark.parametrize(
    "form", [ReplyForm(json_object=True), ReplyForm(schema=ReplySchema(name="a", schema={"type": "object"}))]
)
async def test_json_has_no_marks(world: World, form: ReplyForm) -> None:
    made = talk(world, '{"cash": "42 billion dollars"}', capabilities=ABLE)
    events = await all_of(ask(made, options=AskOptions(form=form), tools=[]))
    done = only(events, Done)
    assert (done.answer, done.reference.chunks) == ('{"cash": "42 billion dollars"}', ())
    (request,) = made.chat.requests
    assert request.reply_schema == form.schema
    assert request.extra == ({"response_format": {"type": "json_object"}} if form.json_object else {})
    assert "[ID:" not in request.turns[0].content


async def test_instructions_follow_the_systems_text_and_are_never_formatted(world: World) -> None:
    made = talk(world, "Yes.")
    wishes = ("Be brief. {knowledge} {wish 1} {0}", "In French.")
    options = AskOptions(wishes=wishes, variables={"wish 0": "Be loud.", "knowledge": "1066"})
    await all_of(ask(made, options=options, tools=[]))
    system = made.chat.requests[0].turns[0].content
    assert "\n\n".join(wishes) in system
    assert system.index("Answer from:") < system.index("Be brief.")
    assert "Be loud." not in system
    assert "1066" not in system


async def test_instructions_that_leave_no_room_are_refused(world: World) -> None:
    made = talk(world, "Yes.", context_tokens=2000)
    failed = only(await all_of(ask(made, options=AskOptions(wishes=("word " * 500,)), tools=[])), Failed)
    assert "system messages have 2,500 characters" in failed.message
    assert made.retrieval.requests == []


async def test_the_last_turn_is_a_users_or_a_tools(world: World) -> None:
    made = talk(world, "Yes.")
    for turns in [(QUESTION, Turn(role="assistant", content="x")), (RESULT,), (Turn(role="system", content="x"),)]:
        assert only(await all_of(ask(made, *turns)), Failed).code == "invalid_input"


async def test_the_model_is_told_of_tools_by_request_only(world: World) -> None:
    """The built-in ones of the chat rest while the client has its own."""
    seen: list[ChatRequest] = []

    def script(request: ChatRequest) -> str:
        seen.append(request)
        return "Yes."

    made = talk(world, script)
    text = [event.text for event in await all_of(ask(made)) if isinstance(event, Token)]
    assert "".join(text) == "Yes."
    assert [tool.name for tool in seen[0].tools] == ["weather"]
