import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from api.db.services.dialog_brief import sampling_of
from api.db.services.dialog_service import AskOptions, Sampling
from api.db.services.usage_ledger import CallContext
from rag.core.errors import (
    BudgetSpent,
    Conflict,
    ModelError,
    ModelOverloaded,
    ModelRefused,
    NotFound,
    RagError,
    StoreUnavailable,
)
from rag.core.events import (
    Cited,
    Done,
    Failed,
    Reasoning,
    RetrievalFinished,
    RetrievalStarted,
    Started,
    Token,
    Usage,
)
from rag.core.types import Reference, Turn
from rag.llm.base import Embedded, Embedder
from tests.unit.api.db.services.talk import CASH, DEBT, RAIN, Talk, all_of, chatter, hits, only
from tests.unit.api.db.services.world import ANN, World

HELD = "At the end of 2022, 42 billion dollars in cash were held by the company"
FELL = "In total, corporate debt went down to 17 billion dollars."
EMPTY = "Nothing found, sorry."


def shown(events: list[Any]) -> str:
    return "".join(event.text for event in events if isinstance(event, Token))


async def test_an_answer_is_a_story_told_in_order(world: World) -> None:
    talk = Talk(world, chatter("Cash was 42 billion [ID: 0]. Debt fell (ID:1) [ID:9].", reasoning="Hm"))
    events = await all_of(talk.ask("How much cash?"))
    kinds = [type(event) for event in events]
    assert [kind for kind in kinds if kind is not Token] == [
        Started, RetrievalStarted, RetrievalFinished, Reasoning, Cited, Usage, Done,
    ]  # fmt: skip
    found, cited, done = only(events, RetrievalFinished), only(events, Cited), only(events, Done)
    assert [chunk.index for chunk in found.reference.chunks] == [0, 1]
    assert cited.reference.chunks == found.reference.chunks
    assert cited.answer == "Cash was 42 billion [ID:0]. Debt fell [ID:1]."
    assert shown(events) == "Cash was 42 billion [ID: 0]. Debt fell (ID:1) [ID:9]."
    assert (done.answer, done.reference) == (cited.answer, cited.reference)
    assert {each.document_name for each in done.reference.documents} == {"report0.pdf", "report1.pdf"}
    assert CASH in done.prompt
    assert done.created_at > 0
    assert only(events, Usage).model == talk.chat.info.name


async def test_the_search_uses_the_chats_settings(world: World) -> None:
    talk = Talk(world, chatter())
    dialog = talk.dialog(top_n=1, top_k=99, similarity_threshold=0.4, vector_similarity_weight=0.7)
    options = AskOptions(document_ids=("d",), dataset_ids=("k2", "k1"))
    events = await all_of(talk.ask("Q?", dialog=dialog, options=options))
    (request,) = talk.retrieval.requests
    assert request.dataset_ids == ("k1", "k2")
    assert (request.document_ids, request.page_size, request.top_k) == (("d",), 1, 99)
    assert (request.similarity_threshold, request.vector_similarity_weight) == (0.4, 0.7)
    assert len(only(events, Done).reference.chunks) == 1


async def test_a_model_without_a_vocabulary_gets_question_and_passages_apart(world: World) -> None:
    talk = Talk(world, chatter())
    await all_of(talk.ask("Q?", dialog=talk.dialog(prompt={"empty_response": EMPTY})))
    grounding = talk.chat.requests[0].grounding
    assert (grounding.question, grounding.empty_response) == ("Q?", EMPTY)
    assert [passage.content for passage in grounding.passages] == [CASH, DEBT]


async def test_marks_are_put_in_where_a_real_model_wrote_none(world: World) -> None:
    talk = Talk(world, chatter(f"{DEBT} Also hello there friend."), contents=(CASH, DEBT, RAIN))
    events = await all_of(talk.ask("Debt?"))
    assert only(events, Done).answer == f"{DEBT} [ID:1] Also hello there friend."
    assert [each.document_name for each in only(events, Done).reference.documents] == ["report1.pdf"]


def _another(text: str, mark: str) -> tuple[str, str]:
    return f"{text} [ID:{mark}].", f"{text}."


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (f"{DEBT} [ID:0]", f"{DEBT} [ID:1]"),
        _another("Total debt of the company fell to 71 billion dollars", "1"),
        _another("Total debt of the company never fell to 17 billion dollars", "1"),
        _another("Total debt of the company Acme fell to 17 billion dollars", "1"),
        (f"{CASH} [ID:0] {DEBT} [ID:0]", f"{CASH} [ID:0] {DEBT} [ID:1]"),
        (f"{CASH[:-1]}, and the debt fell to 17 billion dollars [ID:0][ID:1].",) * 2,
        (f"`x [ID:1]` {DEBT} [ID:0]", f"`x [ID:1]` {DEBT} [ID:1]"),
        _another("The documents do not say anything about that at all", "2"),
        ("Die Schulden des Unternehmens sanken auf 17 Milliarden Dollar [ID:1].",) * 2,
        _another("Die Schulden des Unternehmens sanken auf 71 Milliarden Dollar", "1"),
    ],
)
async def test_marks_are_checked_against_their_sources(world: World, written: str, shown: str) -> None:
    talk = Talk(world, chatter(written), contents=(CASH, DEBT, RAIN))
    events = await all_of(talk.ask("Debt?"))
    assert only(events, Cited).answer == only(events, Done).answer == shown


async def test_the_empty_response_has_no_marks_even_if_the_model_wrote_some(world: World) -> None:
    talk = Talk(world, chatter(f"{EMPTY} [ID:0]"))
    done = only(await all_of(talk.ask("Debt?", dialog=talk.dialog(prompt={"empty_response": EMPTY}))), Done)
    assert done.answer == EMPTY


async def test_one_batch_is_embedded_at_most_and_none_where_words_decide(world: World) -> None:
    batches: list[int] = []

    class Counting:
        name, dim = "minilm@Builtin", 3

        def encode(self, texts: Sequence[str]) -> Embedded:
            batches.append(len(texts))
            return Embedded(vectors=np.ones((len(texts), 3), dtype=np.float32) / 3**0.5, tokens=1)

        encode_query = encode

    many = " ".join(
        f"Item {chr(97 + n % 26) * (4 + n // 26)} of the company had a debt that fell a bit [ID:1]." for n in range(200)
    )
    for written, sizes in ((f"{DEBT} [ID:1]", []), (many, [64])):
        talk = Talk(world, chatter(written))
        talk.models._registry._embedders[:] = [Counting()]  # type: ignore[attr-defined]
        await all_of(talk.ask("Debt?"))
        assert [min(size, 64) for size in batches] == sizes
        assert all(size <= 64 for size in batches)


async def test_an_answer_that_rests_on_nothing_gets_no_marks_and_all_documents(world: World) -> None:
    talk = Talk(world, chatter("I am quite unable to say anything about that."))
    done = only(await all_of(talk.ask("Debt?")), Done)
    assert "[ID:" not in done.answer
    assert len(done.reference.documents) == 2


async def test_the_built_in_models_answer_is_not_second_guessed(world: World) -> None:
    talk = Talk(world, chatter(DEBT, local=True))
    assert only(await all_of(talk.ask("Debt?")), Done).answer == DEBT


@pytest.mark.parametrize("how", ["chat", "call", "column"])
async def test_without_quotes_there_are_no_marks_and_no_sources(world: World, how: str) -> None:
    talk = Talk(world, chatter("Cash was 42 [ID:0] and so [ID:1]."))
    dialog = talk.dialog(prompt={"quote": how != "chat"}, do_refer="0" if how == "column" else "1")
    events = await all_of(talk.ask("Q?", dialog=dialog, options=AskOptions(quote=how != "call")))
    assert not [event for event in events if isinstance(event, Cited)]
    assert shown(events) == only(events, Done).answer == "Cash was 42 and so."
    assert only(events, Done).reference == Reference()


@pytest.mark.parametrize("question", ["What?", "", "   "])
async def test_nothing_found_says_the_empty_response_without_the_model(world: World, question: str) -> None:
    talk = Talk(world, chatter(), contents=())
    events = await all_of(talk.ask(question, dialog=talk.dialog(prompt={"empty_response": EMPTY})))
    assert (shown(events), only(events, Done).answer) == (EMPTY, EMPTY)
    assert only(events, Done).reference == only(events, RetrievalFinished).reference == Reference()
    assert talk.chat.requests == []


async def test_nothing_found_and_no_empty_response_lets_the_model_answer(world: World) -> None:
    talk = Talk(world, chatter("From memory: 42 [ID:0]"), contents=())
    done = only(await all_of(talk.ask("What?")), Done)
    assert done.answer == "From memory: 42"
    assert done.reference == Reference()
    assert "nothing relevant was found" in talk.chat.requests[0].turns[0].content
    assert "[ID:n]" not in talk.chat.requests[0].turns[0].content


async def test_a_chat_without_datasets_asks_the_model_alone(world: World) -> None:
    talk = Talk(world, chatter("Hello."))
    events = await all_of(talk.ask("Hi", dialog=talk.dialog(dataset_ids=(), prompt={"empty_response": EMPTY})))
    assert [type(event) for event in events] == [Started, Token, Usage, Done]
    assert talk.retrieval.requests == []
    assert talk.chat.requests[0].turns == (Turn(role="system", content="Answer from:"), Turn(role="user", content="Hi"))
    assert talk.chat.requests[0].grounding is None


async def test_without_the_variable_knowledge_nothing_is_searched(world: World) -> None:
    talk = Talk(world, chatter("Hello."))
    await all_of(talk.ask("Hi", dialog=talk.dialog(prompt={"parameters": [], "system": "S"})))
    assert talk.retrieval.requests == []


async def test_variables_are_filled_and_a_missing_one_is_named(world: World) -> None:
    talk = Talk(world, chatter("Hello."))
    prompt = {
        "system": "{who} {style} {knowledge} {else}",
        "parameters": [
            {"key": "knowledge", "optional": False},
            {"key": "who", "optional": False},
            {"key": "style", "optional": True},
            "broken",
        ],
    }
    dialog = talk.dialog(prompt=prompt, dataset_ids=())
    events = await all_of(talk.ask("Hi", dialog=dialog))
    assert only(events, Failed) == Failed(code="invalid_input", message="Miss parameter: who")
    assert talk.chat.requests == []
    options = AskOptions(variables={"who": "{style}{knowledge}", "knowledge": "forged", "unused": 1})
    await all_of(talk.ask("Hi", dialog=dialog, options=options))
    assert talk.chat.requests[0].turns[0].content == "{style}{knowledge}    {else}"


async def test_a_follow_up_is_refined_by_a_real_model_and_answered_as_asked(world: World) -> None:
    replies = ["How much debt in 2022?", "It fell [ID:0]."]
    talk = Talk(world, chatter(replies))
    events = await all_of(talk.ask("How much cash in 2022?", "42 [ID:5].", "And debt?"))
    refine, answer = talk.chat.requests
    assert 'ASSISTANT: "42."\n' in refine.turns[0].content
    assert only(events, RetrievalStarted).question == "How much debt in 2022?"
    assert talk.retrieval.requests[0].question == "How much debt in 2022?"
    assert answer.turns[-1].content == "And debt?"
    assert [turn.content for turn in answer.turns[1:-1]] == ["How much cash in 2022?", "42."]


@pytest.mark.parametrize(("local", "refine", "turns"), [(True, False, 3), (False, False, 3), (False, True, 1)])
async def test_otherwise_it_is_searched_as_asked(world: World, local: bool, refine: bool, turns: int) -> None:
    talk = Talk(world, chatter("A [ID:0].", local=local))
    texts = ("How much cash?", "42.", "And debt?")[-turns:]
    await all_of(talk.ask(*texts, dialog=talk.dialog(prompt={"refine_multiturn": refine})))
    assert talk.retrieval.requests[0].question == "And debt?"
    assert len(talk.chat.requests) == 1


async def test_a_failed_refinement_does_not_fail_the_answer(world: World) -> None:
    talk = Talk(world, chatter(["", "Cash: 42 [ID:0]."]))
    events = await all_of(talk.ask("Debt?", "1.", "Cash?"))
    assert talk.retrieval.requests[0].question == "Cash? Debt"
    assert only(events, Done).answer == "Cash: 42 [ID:0]."


@pytest.mark.parametrize("fail_after", [0, 3])
async def test_a_failing_model_keeps_the_text_before(world: World, fail_after: int) -> None:
    error = ModelOverloaded("Busy.", started=fail_after > 0)
    talk = Talk(world, chatter("One two three four five", fail=error, fail_after=fail_after))
    events = await all_of(talk.ask("Q?"))
    assert events[-1] == Failed(code="model_overloaded", message="Busy.", answer="One two three"[: fail_after * 10])
    assert not [event for event in events if isinstance(event, Done | Cited)]


@pytest.mark.parametrize("reply", ["", "  \n "])
async def test_a_model_that_says_nothing_failed(world: World, reply: str) -> None:
    failed = only(await all_of(Talk(world, chatter(reply)).ask("Q?")), Failed)
    assert failed.code == "model_bad_output"
    assert "no answer" in failed.message


@pytest.mark.parametrize(
    "error", [Conflict("Mixed embedding models."), StoreUnavailable("No index."), NotFound("document", "d")]
)
async def test_a_failing_search_is_told(world: World, error: Exception) -> None:
    talk = Talk(world, chatter())
    talk.retrieval.error = error
    events = await all_of(talk.ask("Q?"))
    assert only(events, Failed).message == str(error)
    assert talk.chat.requests == []


async def test_a_deleted_dataset_of_the_chat_is_left_out_an_extra_one_is_an_error(world: World) -> None:
    talk = Talk(world, chatter())
    talk.retrieval.gone = {"gone"}
    dialog = talk.dialog(dataset_ids=("gone", "k1"))
    assert only(await all_of(talk.ask("Q?", dialog=dialog)), Done).reference.chunks
    assert talk.retrieval.requests[-1].dataset_ids == ("k1",)
    events = await all_of(talk.ask("Q?", options=AskOptions(dataset_ids=("gone",))))
    assert only(events, Failed).code == "not_found"
    empty = talk.dialog(dataset_ids=("gone",), prompt={"empty_response": EMPTY})
    assert only(await all_of(talk.ask("Q?", dialog=empty)), Done).answer == EMPTY


async def test_an_unknown_model_is_not_authorized(world: World) -> None:
    talk = Talk(world, chatter())
    failed = only(await all_of(talk.ask("Q?", dialog=talk.dialog(llm_id="gone@OpenAI"))), Failed)
    assert failed == Failed(code="not_found", message="Model(gone@OpenAI) not authorized")


@pytest.mark.parametrize("turns", [(), (Turn(role="assistant", content="x"),), (Turn(role="system", content="x"),)])
async def test_the_last_turn_must_be_the_users(world: World, turns: tuple[Turn, ...]) -> None:
    talk = Talk(world, chatter())
    events = await all_of(talk.dialogs.chat(ANN, talk.dialog(), turns))
    assert only(events, Failed).code == "invalid_input"


async def test_system_turns_are_left_out_of_a_chat_and_added_to_an_ask(world: World) -> None:
    talk = Talk(world, chatter("A [ID:0]."))
    turns = (Turn(role="system", content="Be a pirate. {knowledge}"), Turn(role="user", content="Q?"))
    await all_of(talk.dialogs.chat(ANN, talk.dialog(), turns))
    assert "pirate" not in talk.chat.requests[-1].turns[0].content
    events = await all_of(talk.dialogs.ask(ANN, ["k1"], turns, model=talk.chat.info.name))
    system = talk.chat.requests[-1].turns[0].content
    assert "Be a pirate. {knowledge}" in system
    assert system.count(CASH) == 1
    assert only(events, Done).answer == "A [ID:0]."
    assert talk.retrieval.requests[-1].page_size == 12


async def test_ask_fails_for_a_dataset_that_is_not_there(world: World) -> None:
    talk = Talk(world, chatter(name="extractive@Builtin"))
    talk.retrieval.gone = {"gone"}
    events = await all_of(talk.dialogs.ask(ANN, ["gone"], (Turn(role="user", content="Q?"),)))
    assert only(events, Failed).code == "not_found"


async def test_settings_reach_the_model_and_the_calls_own_come_first(world: World) -> None:
    talk = Talk(world, chatter())
    dialog = talk.dialog(llm_setting={"temperature": 0.5, "top_p": "x", "max_tokens": True, "presence_penalty": 1})
    own = Sampling(temperature=0.0, stop=("END",))
    await all_of(talk.ask("Q?", dialog=dialog, options=AskOptions(sampling=own)))
    assert talk.chat.requests[0].sampling == Sampling(temperature=0.0, presence_penalty=1.0, stop=("END",))
    assert sampling_of({"max_tokens": 0}) == Sampling()


async def test_a_reply_cut_at_its_length_is_truncated(world: World) -> None:
    talk = Talk(world, chatter("A [ID:0]."))
    original = talk.chat.stream

    async def stream(request: Any) -> Any:
        async for delta in original(request):
            yield delta._replace(finish="length") if delta.finish else delta

    talk.chat.stream = stream  # type: ignore[method-assign]
    assert only(await all_of(talk.ask("Q?")), Done).truncated


@pytest.mark.parametrize("events_read", range(9))
async def test_closing_at_any_event_ends_the_models_request(world: World, events_read: int) -> None:
    talk = Talk(world, chatter("one two three four five six"))
    events = talk.ask("Q?")
    async with aclosing(events):
        for _ in range(events_read):
            await anext(events)
    assert talk.chat.closed == len(talk.chat.requests)


@pytest.mark.parametrize("where", ["search", "first token", "later token"])
async def test_cancelling_while_it_waits_ends_everything(world: World, where: str) -> None:
    talk = Talk(world, chatter("one two three", wait_s=0.0 if where == "search" else 0.2))
    if where == "search":
        talk.retrieval.gate = asyncio.Event()
    tasks = asyncio.all_tasks()
    task = asyncio.create_task(all_of(talk.ask("Q?")))
    await asyncio.sleep(0.3 if where == "later token" else 0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert talk.chat.closed == len(talk.chat.requests) == (0 if where == "search" else 1)
    assert asyncio.all_tasks() == tasks


async def test_an_embedding_model_that_fails_leaves_the_citing_to_words(world: World) -> None:
    talk = Talk(world, chatter(f"{HELD} [ID:0]. Debt rose to 17 billion dollars in spring [ID:0]."))

    class Broken:
        name, dim = "minilm@Builtin", 3

        def encode(self, texts: object) -> object:
            raise ModelRefused("out of order")

        encode_query = encode

    talk.models._registry._embedders[:] = [Broken()]  # type: ignore[attr-defined]
    with capture_logs() as logs:
        answer = only(await all_of(talk.ask("Q?")), Done).answer
    assert answer == f"{HELD} [ID:0]. Debt rose to 17 billion dollars in spring [ID:1]."
    assert [entry["code"] for entry in logs if entry["event"] == "citing_failed"] == ["model_refused"]


@pytest.mark.parametrize("refusal", [BudgetSpent("Spent."), StoreUnavailable("Away."), NotFound("model", "m")])
async def test_without_an_embedding_model_words_decide(
    world: World, refusal: RagError, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Talk(world, chatter(FELL))

    class Gate:
        async def check(self, context: CallContext) -> None:
            if context.purpose == "cite":
                raise refusal

    def no_embedder(*_: object) -> Embedder:
        raise refusal

    if isinstance(refusal, NotFound):
        monkeypatch.setattr(talk.models, "_embedder", no_embedder)
    else:
        monkeypatch.setattr(talk.models, "_budget", Gate())
    with capture_logs() as logs:
        assert only(await all_of(talk.ask("Q?")), Done).answer == f"{FELL} [ID:1]"
    assert [entry["code"] for entry in logs if entry["event"] == "citing_failed"] == [refusal.code]


async def test_an_unforeseen_error_is_not_made_into_an_answer(world: World) -> None:
    talk = Talk(world, chatter())
    talk.retrieval.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await all_of(talk.ask("Q?"))


async def test_a_question_of_a_megabyte_is_answered(world: World) -> None:
    talk = Talk(world, chatter("A [ID:0]."))
    events = await all_of(talk.ask("why " * 250_000))
    assert only(events, Done).answer == "A."
    assert len(talk.retrieval.requests[0].question) <= 8000


@pytest.mark.parametrize("question", ["😀😀", "\u202eabc\u202c", "\u0000\u0001", "مرحبا", "{knowledge}", "\ud800"])
async def test_odd_questions_are_answered(world: World, question: str) -> None:
    talk = Talk(world, chatter("A [ID:0]."))
    assert only(await all_of(talk.ask(question)), Done)
    assert talk.chat.requests[0].turns[-1].content == question


async def test_fifty_answers_at_once_do_not_mix(world: World) -> None:
    def reply(request: Any) -> str:
        return f"Cash: 42 [ID:0]. You asked {request.turns[-1].content}."

    talk = Talk(world, chatter(reply, wait_s=0.001))
    answers = await asyncio.gather(*(all_of(talk.ask(f"number{n}")) for n in range(50)))
    for number, events in enumerate(answers):
        assert only(events, RetrievalStarted).question == f"number{number}"
        assert only(events, Done).answer == f"Cash: 42 [ID:0]. You asked number{number}."


async def test_hits_of_a_long_table_are_numbered_like_any(world: World) -> None:
    talk = Talk(world, chatter("A [ID:2]."))
    talk.retrieval.found = hits(*(f"Row {n} | {n}" for n in range(6)))
    done = only(await all_of(talk.ask("Q?")), Done)
    assert [each.document_name for each in done.reference.documents] == ["report2.pdf"]


def test_errors_of_models_are_what_routes_look_at() -> None:
    assert ModelError.code.startswith("model_")
    assert ModelOverloaded.code.startswith("model_")
