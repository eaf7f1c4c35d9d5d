"""From the last turn to what is searched for: each step, and what happens when one fails."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest

from api.db.services import dialog_question
from api.db.services.dialog_asking import Asking, Steps
from api.db.services.dialog_brief import AskOptions, brief_of_dialog
from api.db.services.dialog_question import SearchPlan, search_plan
from api.db.services.records import DialogRecord
from rag.core.clock import SystemClock
from rag.core.errors import ModelRefused, StoreUnavailable
from rag.core.events import Done, RetrievalStarted
from rag.core.types import Principal, Turn
from rag.llm.base import ChatRequest
from rag.testing.scripted_chat import ScriptedChat
from tests.unit.api.db.services.talk import Talk, all_of, chatter, only, spoken
from tests.unit.api.db.services.world import ANN, BOB, World

CHAT = ("How much cash in 2022?", "42 [ID:5].", "And debt?")
ALONE = ("How much cash did Boeing hold in 2022?",)


def by_step(**replies: Any) -> Callable[[ChatRequest], str]:
    """Says for each step of the question what `replies` has for it, and `Answer` to the question itself."""
    begins = {"refine": "Below are", "cross_languages": "Translate", "keywords": "Which", "metadata_filter": "A search"}

    def reply(request: ChatRequest) -> str:
        step = next((step for step, text in begins.items() if request.turns[-1].content.startswith(text)), "")
        said = replies.get(step, "Answer [ID:0].")
        return said if isinstance(said, str) else orjson.dumps(said).decode()

    return reply


class Fields:
    """Documents' metadata."""

    def __init__(self, fields: dict[str, dict[str, Any]] | None = None, error: Exception | None = None) -> None:
        self.fields = fields or {}
        self.error = error
        self.asked: list[tuple[Principal, tuple[str, ...]]] = []

    async def meta_fields(self, principal: Principal, dataset_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.asked.append((principal, tuple(dataset_ids)))
        if self.error is not None:
            raise self.error
        return self.fields


class Case:
    """One question with its settings."""

    def __init__(self, world: World, chat: ScriptedChat, *, fields: Fields | None = None) -> None:
        self.talk = Talk(world, chat)
        self.fields = fields or Fields()
        self.steps = Steps(SystemClock())

    async def plan(
        self, texts: Sequence[str] = ALONE, *, options: AskOptions | None = None, dialog: DialogRecord | None = None
    ) -> SearchPlan:
        asking = self.asking(spoken(*texts), dialog or self.talk.dialog(), options or AskOptions())
        return await search_plan(asking, asking.bundle(), self.fields)

    def asking(self, turns: tuple[Turn, ...], dialog: DialogRecord, options: AskOptions) -> Asking:
        return Asking(
            principal=ANN,
            brief=brief_of_dialog(dialog, options),
            turns=turns,
            message_id="m",
            session_id="",
            arms=self.talk.flags.arms(tenant_id=ANN.tenant_id, session_id=""),
            models=self.talk.models,
            prompts=self.talk.prompts,
            steps=self.steps,
        )


def manual(*rows: tuple[str, str, Any]) -> dict[str, Any]:
    return {"method": "manual", "manual": [{"key": key, "op": op, "value": value} for key, op, value in rows]}


FIELDS = {"a": {"year": 2021, "kind": ["report", "audit"]}, "b": {"year": "2022"}, "c": {"kind": "memo"}}


async def test_a_model_completes_the_question(world: World) -> None:
    case = Case(world, chatter(by_step(refine="How much debt in 2022?")))
    plan = await case.plan(CHAT)
    assert plan == SearchPlan(question="How much debt in 2022?")
    assert plan.searched == "How much debt in 2022?"
    assert list(case.steps.taken_ms) == ["refine"]


@pytest.mark.parametrize(
    "chat",
    [
        chatter(local=True),
        chatter(by_step(refine="")),
        chatter(fail=ModelRefused("No key.")),
    ],
)
async def test_the_rule_completes_what_no_model_does(world: World, chat: ScriptedChat) -> None:
    plan = await Case(world, chat).plan(CHAT)
    assert plan == SearchPlan(question="And debt?", rewritten="And debt? cash 2022 42")
    assert plan.searched == "And debt? cash 2022 42"


async def test_a_late_model_is_not_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialog_question, "LIMIT_S", 0.05)
    prompt = {"cross_languages": ["German"], "keyword": True}
    case = Case(world, chatter("too late", wait_s=5.0), fields=Fields(FIELDS))
    plan = await case.plan(CHAT, dialog=case.talk.dialog(prompt=prompt, meta_data_filter={"method": "auto"}))
    assert plan == SearchPlan(
        question="And debt?", rewritten="And debt? cash 2022 42", queries=("debt cash 2022 42",), document_ids=None
    )
    assert set(case.steps.taken_ms) == {"refine", "cross_languages", "keywords", "metadata_filter"}
    assert case.steps.taken_ms["refine"] < 2000


@pytest.mark.parametrize("question", ["", "  ", "👍", "\x00\x1b[", "‏؟"])
async def test_an_odd_question_is_searched_as_it_is(world: World, question: str) -> None:
    case = Case(world, chatter(local=True))
    plan = await case.plan(("What is a webhook?", "A request.", question), dialog=case.talk.dialog())
    assert plan.searched == question


async def test_a_question_in_other_languages_is_searched_too(world: World) -> None:
    case = Case(world, chatter(by_step(cross_languages={"translations": ["Wie viel Geld?", "多少现金？"]})))
    plan = await case.plan(dialog=case.talk.dialog(prompt={"cross_languages": ["German", "Chinese"]}))
    assert plan == SearchPlan(question=ALONE[0], queries=("Wie viel Geld?", "多少现金？"))


async def test_keywords_are_searched_too(world: World) -> None:
    case = Case(world, chatter(by_step(keywords={"keywords": ["liquid assets", "Boeing"]})))
    plan = await case.plan(dialog=case.talk.dialog(prompt={"keyword": True}))
    assert plan.queries == (f"{ALONE[0]} liquid assets Boeing",)


async def test_without_a_model_the_heaviest_words_are_searched_and_no_translation(world: World) -> None:
    chat = chatter(local=True)
    case = Case(world, chat, fields=Fields(FIELDS))
    prompt = {"keyword": True, "cross_languages": ["German"]}
    plan = await case.plan(dialog=case.talk.dialog(prompt=prompt, meta_data_filter={"method": "auto"}))
    assert plan == SearchPlan(question=ALONE[0], queries=("cash Boeing hold 2022",))
    assert chat.requests == []
    assert case.fields.asked == []


async def test_steps_run_side_by_side(world: World) -> None:
    translated, keywords = {"translations": ["Wie viel?"]}, {"keywords": ["k"]}
    replies = by_step(cross_languages=translated, keywords=keywords, metadata_filter={"conditions": []})
    here = 0
    gate = asyncio.Event()

    class Together(ScriptedChat):
        async def stream(self, request: ChatRequest) -> Any:
            nonlocal here
            here += 1
            if here == 3:
                gate.set()
            await asyncio.wait_for(gate.wait(), 5)
            async for delta in super().stream(request):
                yield delta

    made = Together(replies)
    made.info = chatter().info
    case = Case(world, made, fields=Fields(FIELDS))
    prompt = {"cross_languages": ["German"], "keyword": True}
    plan = await case.plan(dialog=case.talk.dialog(prompt=prompt, meta_data_filter={"method": "auto"}))
    assert plan.queries == ("Wie viel?", f"{ALONE[0]} k")


@pytest.mark.parametrize(
    ("setting", "named", "found"),
    [
        (manual(("year", "≥", 2022)), (), ("b",)),
        (manual(("year", "≥", "2021"), ("kind", "contains", "AUDIT")), (), ("a",)),
        (manual(("year", "=", "1999")), (), ()),
        (manual(("nobody", "≠", "x")), (), ()),
        (manual(("year", "matches", ".*")), (), ()),
        (manual(("year", "≥", "2021")), ("b", "c", "z"), ("b",)),
        (manual(("year", "≥", "2021")), ("c",), ()),
        (manual(), ("c",), ("c",)),
        (manual(("", "=", "x")), (), None),
        ({"method": "manual", "manual": "year"}, (), None),
        ({"method": "other", "manual": [{"key": "year", "op": "=", "value": "1999"}]}, (), None),
        ({}, (), None),
    ],
)
async def test_a_chats_own_filter(
    world: World, setting: dict[str, Any], named: tuple[str, ...], found: tuple[str, ...] | None
) -> None:
    case = Case(world, chatter(local=True), fields=Fields(FIELDS))
    options = AskOptions(document_ids=named)
    assert (await case.plan(dialog=case.talk.dialog(meta_data_filter=setting), options=options)).document_ids == found


async def test_a_filter_that_matches_nothing_disables_retrieval(world: World) -> None:
    talk = Talk(world, chatter())
    events = await all_of(talk.ask("Cash?", dialog=talk.dialog(meta_data_filter=manual(("year", "=", "1999")))))
    assert talk.retrieval.requests == []
    assert only(events, Done).reference.chunks == ()


async def test_a_filter_reads_only_what_the_principal_owns(world: World) -> None:
    mine, theirs = await world.dataset(ANN, "mine"), await world.dataset(BOB, "theirs")
    made = [await world.document(dataset) for dataset in (mine, theirs)]
    for owner, dataset, document in ((ANN, mine, made[0]), (BOB, theirs, made[1])):
        await world.documents.update(owner, dataset.id, document.id, {"meta_fields": {"year": 2020}})
    case = Case(world, chatter(local=True))
    dialog = case.talk.dialog(meta_data_filter=manual(("year", "=", "2020")), dataset_ids=(mine.id, theirs.id))
    asking = case.asking(spoken(*ALONE), dialog, AskOptions())
    assert (await search_plan(asking, asking.bundle(), world.documents)).document_ids == (made[0].id,)


async def test_a_chats_own_filter_is_never_dropped(world: World) -> None:
    case = Case(world, chatter(local=True), fields=Fields(error=StoreUnavailable("No rows.")))
    with pytest.raises(StoreUnavailable):
        await case.plan(dialog=case.talk.dialog(meta_data_filter=manual(("year", "=", "2020"))))


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([{"key": "year", "op": "=", "value": "2022"}], ("b",)),
        ([{"key": "year", "op": "=", "value": "1999"}], ()),
        ([], None),
        # A model that was talked into something else: no filter, and nothing of it is run.
        ([{"key": "year", "op": "=", "value": "x' OR '1'='1"}], ()),
        ([{"key": "tenant_id", "op": "=", "value": "bob"}], None),
        ([{"key": "year", "op": "regex", "value": "(a+)+$"}], None),
        ([{"key": "year", "op": "=", "value": {"$ne": 1}}], None),
        ("DROP TABLE document", None),
    ],
)
async def test_a_models_filter(world: World, conditions: Any, found: tuple[str, ...] | None) -> None:
    reply = {"conditions": conditions} if isinstance(conditions, list) else conditions
    chat = chatter(by_step(metadata_filter=reply))
    case = Case(world, chat, fields=Fields(FIELDS))
    plan = await case.plan(dialog=case.talk.dialog(meta_data_filter={"method": "auto"}))
    assert plan.document_ids == found
    assert '{"year":["2021","2022"],"kind":["report","audit","memo"]}' in chat.requests[0].turns[-1].content
    assert case.fields.asked == [(ANN, ("k1",))]


async def test_a_model_is_offered_a_bounded_choice(world: World) -> None:
    many = {f"d{n}": {f"key{n}": "v", "all": f"{n} " + "long" * 100, "x" * 200: 1, "": 1} for n in range(500)}
    chat = chatter(by_step(metadata_filter={"conditions": []}))
    case = Case(world, chat, fields=Fields(many))
    await case.plan(dialog=case.talk.dialog(meta_data_filter={"method": "auto"}))
    assert len(chat.requests[0].turns[-1].content) < 5000
    schema = chat.requests[0].reply_schema
    assert schema is not None
    keys = schema.schema["properties"]["conditions"]["items"]["properties"]["key"]["enum"]
    assert len(keys) == 32
    assert keys[0] == "all"


async def test_steps_that_fail_do_not_fail_the_answer(world: World) -> None:
    chat = chatter(by_step(cross_languages="no JSON", keywords="no JSON", metadata_filter="no JSON"))
    talk = Talk(world, chat)
    prompt = {"cross_languages": ["German"], "keyword": True}
    dialog = talk.dialog(prompt=prompt, meta_data_filter={"method": "auto"})
    done = only(await all_of(talk.ask(*CHAT, dialog=dialog)), Done)
    assert done.answer.startswith("Answer")
    assert {"refine", "cross_languages", "keywords", "metadata_filter"} <= done.timings_ms.keys()


async def test_what_is_searched_is_told_and_what_is_answered_is_the_question(world: World) -> None:
    chat = chatter(local=True)
    talk = Talk(world, chat)
    events = await all_of(talk.ask(*CHAT))
    assert only(events, RetrievalStarted).question == "And debt? cash 2022 42"
    assert talk.retrieval.requests[0].question == "And debt? cash 2022 42"
    grounding = chat.requests[0].grounding
    assert grounding is not None
    assert grounding.question == "And debt?"


async def test_each_step_leaves_a_usage_row_of_its_own(world: World) -> None:
    purposes: list[str] = []

    class Sink:
        async def record(self, call: Any) -> None:
            purposes.append(call.purpose)

    chat = chatter(by_step(keywords={"keywords": ["k"]}, cross_languages={"translations": ["t"]}))
    talk = Talk(world, chat, usage=Sink())
    await all_of(talk.ask(*ALONE, dialog=talk.dialog(prompt={"cross_languages": ["German"], "keyword": True})))
    await talk.models.settle()
    assert sorted(purposes) == ["answer", "cross_languages", "keywords"]


@pytest.mark.parametrize("switch", ["agentic", "reasoning"])
@pytest.mark.parametrize(("method", "steps"), [("", []), ("manual", []), ("auto", ["refine", "metadata_filter"])])
async def test_for_a_model_that_searches_by_itself_only_the_filter_is_made(
    world: World, switch: str, method: str, steps: list[str]
) -> None:
    begins = {"Below are": "refine", "Translate": "cross_languages", "Which": "keywords", "A search": "metadata_filter"}
    chat = chatter(by_step(refine="How much debt in 2022?", metadata_filter={"conditions": []}))
    made = Talk(world, chat)
    made.dialogs._metadata = Fields(FIELDS)
    prompt = {switch: True, "cross_languages": ["German"], "keyword": True}
    dialog = made.dialog(prompt=prompt, meta_data_filter={"method": method, "manual": []})
    only(await all_of(made.ask(*CHAT, dialog=dialog)), Done)
    asked = [
        begins.get(" ".join(request.turns[-1].content.split()[:size])) for request in chat.requests for size in (1, 2)
    ]
    assert [step for step in asked if step] == steps
