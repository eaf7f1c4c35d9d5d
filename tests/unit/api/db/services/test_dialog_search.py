"""What an answer rests on: datasets and web side by side, reranked, with what stands around the best."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from api.db.services.chunk_rows import text_of
from api.db.services.dialog_brief import AskOptions, Brief, brief_of_dialog
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_search import MOST_QUERIES, found_for, retrieved, side_by_side
from api.db.services.dialog_service import DialogService
from api.db.services.dialog_sources import unranked
from api.db.services.document_reader import DocumentReader, Part, Reading
from api.db.services.mcp_tools import McpServers
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ModelCall, RetrievalRequest
from api.db.services.toolbox import Toolbox
from api.db.tables import Chunk
from rag.core.clock import SystemClock
from rag.core.errors import ModelOverloaded, NotFound, StoreError, StoreUnavailable
from rag.core.events import Done, Failed, RetrievalFinished, Started, Token, Usage
from rag.core.flags import Flags
from rag.core.settings import Settings
from rag.core.tool_settings import ToolSettings
from rag.core.types import ChunkText, Hit, Principal, Reference, Retrieved, Turn
from rag.llm.base import Reranked
from rag.llm.retry import RetryPolicy
from rag.prompts.loader import load_prompts
from rag.retrieve.web_search import WebSearchFailed
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ABLE
from rag.testing.scripted_replies import ScriptedReplies, call, calls, says
from tests.unit.api.db.services.talk import CASH, DEBT, RAIN, FixedRetrieval, Talk, all_of, chatter, hits, only
from tests.unit.api.db.services.world import ANN, World

EMPTY = "Nothing found, sorry."
HAD = "The company held 42 billion dollars in cash [ID:0]."


class Ranks:
    """A reranking model that knows the scores of texts."""

    name = "ranks@Acme"

    def __init__(self, scores: dict[str, float], *, wait_s: float = 0.0, error: ModelOverloaded | None = None) -> None:
        self.scores = scores
        self.wait_s = wait_s
        self.error = error
        self.asked: list[tuple[str, list[str]]] = []

    async def rerank(self, question: str, passages: Sequence[str]) -> Reranked:
        self.asked.append((question, list(passages)))
        await asyncio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        return Reranked(scores=np.array([self.scores[text] for text in passages], dtype=np.float32), tokens=9)


class Web:
    """In the place of the web search."""

    def __init__(self, *found: Hit, error: Exception | None = None, wait_s: float = 0.0) -> None:
        self.found = found
        self.error = error
        self.wait_s = wait_s
        self.asked: list[tuple[str, str, str]] = []

    async def find(self, principal: Principal, sealed: str, question: str) -> tuple[Hit, ...]:
        self.asked.append((principal.tenant_id, sealed, question))
        await asyncio.sleep(self.wait_s)
        if self.error is not None:
            raise self.error
        return self.found


class Sink:
    def __init__(self) -> None:
        self.calls: list[ModelCall] = []

    async def record(self, call: ModelCall) -> None:
        self.calls.append(call)


class Read:
    """Documents of ten passages each, the first five below one heading."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.readings: list[Reading] = []

    async def read(self, principal: Principal, reading: Reading) -> Part:
        self.readings.append(reading)
        if self.error is not None:
            raise self.error
        first, last = reading.first_passage or 0, reading.last_passage or 0
        return Part(chunks=tuple(passage(n, reading.document) for n in range(first, min(last, 9) + 1)), passages=10)


def passage(ordinal: int, document: str = "doc0", *, heading: tuple[str, ...] | None = None) -> ChunkText:
    (hit,) = hits(f"Passage {ordinal} of {document}.")
    path = heading if heading is not None else (("Results", "Cash") if ordinal < 5 else ("Annex",))
    return replace(hit.chunk, chunk_id=f"c{ordinal}", document_id=document, ordinal=ordinal, heading_path=path)


def page(number: int, content: str = "It rained on the web.") -> Hit:
    (hit,) = hits(content)
    url = f"https://h/{number}"
    chunk = replace(hit.chunk, chunk_id=url, document_id="", version_id="", dataset_id="", url=url, document_name="Web")
    return replace(hit, chunk=replace(chunk, positions=(), heading_path=()))


def talk(
    world: World,
    chat: Any = None,
    *,
    ranks: Ranks | None = None,
    web: Web | None = None,
    read: Read | None = None,
    rerank_s: float = 5.0,
    sink: Sink | None = None,
) -> Talk:
    made = Talk(world, chat or chatter(HAD), contents=(CASH, DEBT, RAIN))
    models = FixedModels([made.chat], others=[] if ranks is None else [ranks])
    made.models = ModelCatalogue(Settings(), models, policy=RetryPolicy(attempts=1), usage=sink)
    settings, clock = ToolSettings(), SystemClock()
    reader: Any = read or DocumentReader(world.db)
    made.dialogs = DialogService(
        made.retrieval,
        made.models,
        load_prompts(),
        clock,
        toolbox=Toolbox(settings, reader, McpServers(settings, clock)),
        flags=Flags({}),
        metadata=world.documents,
        pages=web,
        rerank_s=rerank_s,
    )
    return made


async def found_by(made: Talk, *, prompt: dict[str, Any] | None = None, **changes: Any) -> tuple[list[str], list[Any]]:
    events = await all_of(made.ask("How much cash?", dialog=made.dialog(prompt=prompt or {}, **changes)))
    reference: Reference = next(event.reference for event in events if isinstance(event, RetrievalFinished))
    return [chunk.content for chunk in reference.chunks], events


# ---- reranking


async def test_the_reranking_model_orders_and_its_score_meets_the_threshold(world: World) -> None:
    sink = Sink()
    ranks = Ranks({CASH: 0.39, DEBT: 0.4, RAIN: 0.9})
    made = talk(world, ranks=ranks, sink=sink)
    contents, events = await found_by(made, rerank_id="ranks@Acme", similarity_threshold=0.395, top_n=2)
    assert contents == [RAIN, DEBT]
    (request,) = made.retrieval.requests
    assert (request.similarity_threshold, request.page_size, request.rerank_id) == (0.0, 64, "")
    assert ranks.asked == [("How much cash?", [CASH, DEBT, RAIN])]
    first = only(events, RetrievalFinished).reference.chunks[0]
    assert (round(first.vector_similarity, 3), round(first.similarity, 3)) == (0.9, round(0.3 * 0.9 + 0.7 * 0.4, 3))
    assert "rerank" in only(events, Done).timings_ms
    await made.models.settle()
    (row,) = [call for call in sink.calls if call.purpose == "rerank"]
    assert (row.dialog_id, row.message_id, row.prompt_tokens) == ("d1", "m", 9)


async def test_nothing_that_reaches_the_threshold_is_nothing_found(world: World) -> None:
    made = talk(world, ranks=Ranks({CASH: 0.1, DEBT: 0.1, RAIN: 0.1}))
    contents, events = await found_by(made, rerank_id="ranks@Acme", prompt={"empty_response": EMPTY})
    assert contents == []
    assert only(events, Done).answer == EMPTY


@pytest.mark.parametrize("ranks", [Ranks({}, wait_s=9), Ranks({}, error=ModelOverloaded("busy"))])
async def test_a_reranking_model_that_fails_or_is_late_is_left_out(world: World, ranks: Ranks) -> None:
    made = talk(world, ranks=ranks, rerank_s=0.05)
    made.retrieval.found = (*hits(CASH, DEBT), replace(hits(RAIN)[0], similarity=0.1))
    with capture_logs() as logs:
        contents, events = await found_by(made, rerank_id="ranks@Acme")
    assert contents == [CASH, DEBT]
    assert [entry["log_level"] for entry in logs if entry["event"] == "reranking_failed"] == ["warning"]
    assert only(events, Done)


@pytest.mark.parametrize("name", ["BAAI/bge-reranker-v2-m3", "maidalun1020/bce-reranker-base_v1", "gone@Acme"])
async def test_a_name_without_a_model_has_no_effect(world: World, name: str) -> None:
    made = talk(world)
    contents, _ = await found_by(made, rerank_id=name, similarity_threshold=0.45)
    assert contents == [CASH, DEBT, RAIN]
    assert made.retrieval.requests[0].similarity_threshold == 0.45


# ---- several wordings


async def test_further_wordings_are_searched_beside_the_question(world: World) -> None:
    class ByWord(FixedRetrieval):
        running = most = 0

        async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01)
            self.running -= 1
            self.requests.append(request)
            return Retrieved(hits=tuple(hit for hit in self.found if request.question in hit.chunk.content), total=1)

    made = talk(world)
    retrieval = ByWord(hits(CASH, DEBT, RAIN))
    made.dialogs._means = replace(
        made.dialogs._means, sources=replace(made.dialogs._means.sources, retrieval=retrieval)
    )
    plan = SearchPlan(question="cash", queries=("debt", "Rainfall", "cash", " ", *map(str, range(20))))
    asking = made.dialogs._asking(ANN, _brief(made), (_turn("cash"),), message_id="m", session_id="")
    found = await found_for(asking, made.dialogs._means.sources, asking.bundle(), plan)
    assert {hit.chunk.content for hit in found.hits} == {CASH, DEBT, RAIN}
    assert len(retrieval.requests) == MOST_QUERIES
    assert retrieval.most > 1


def _brief(made: Talk) -> Brief:
    return brief_of_dialog(made.dialog(), AskOptions())


def _turn(text: str) -> Turn:
    return Turn(role="user", content=text)


async def test_a_filter_that_matches_nothing_searches_nothing(world: World) -> None:
    made = talk(world)
    plan = SearchPlan(question="cash", document_ids=())
    assert (await retrieved(made.retrieval, ANN, _brief(made), plan)).hits == ()
    assert made.retrieval.requests == []


async def test_when_one_fails_the_others_are_ended() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("slow")

    async def failing() -> None:
        await asyncio.sleep(0)
        raise StoreUnavailable("No index.")

    with pytest.raises(StoreUnavailable):
        await side_by_side([slow(), failing()])
    assert ended == ["slow"]


# ---- the web


async def test_pages_of_the_web_follow_the_passages_of_the_datasets(world: World) -> None:
    web = Web(page(1), page(2, "Another page."))
    made = talk(world, web=web)
    contents, events = await found_by(made, prompt={"tavily_api_key": "sealed"})
    assert contents == [CASH, DEBT, RAIN, "It rained on the web.", "Another page."]
    assert web.asked == [(ANN.tenant_id, "sealed", "How much cash?")]
    reference = only(events, RetrievalFinished).reference
    assert [chunk.url for chunk in reference.chunks] == [None, None, None, "https://h/1", "https://h/2"]
    assert reference.total == 5
    assert "URL: https://h/1" in only(events, Done).prompt
    assert {"web_search", "retrieve"} <= only(events, Done).timings_ms.keys()


async def test_the_web_is_searched_beside_the_datasets(world: World) -> None:
    made = talk(world, web=Web(page(1), wait_s=0.2))
    original = made.retrieval.retrieve

    async def slow(principal: Principal, request: RetrievalRequest) -> Retrieved:
        await asyncio.sleep(0.2)
        return await original(principal, request)

    made.retrieval.retrieve = slow  # type: ignore[method-assign]
    began = time.monotonic()
    contents, _ = await found_by(made, prompt={"tavily_api_key": "sealed"})
    assert len(contents) == 4
    assert time.monotonic() - began < 0.39


@pytest.mark.parametrize("error", [WebSearchFailed("It answered 500."), StoreError("The sealed key is damaged.")])
async def test_a_failing_web_search_never_fails_the_answer(world: World, error: Exception) -> None:
    made = talk(world, web=Web(error=error))
    with capture_logs() as logs:
        contents, events = await found_by(made, prompt={"tavily_api_key": "sealed"})
    assert contents == [CASH, DEBT, RAIN]
    assert only(events, Done).answer == HAD
    assert "sealed" not in str([entry for entry in logs if entry.get("reason") != error.args[0]])


async def test_a_chat_without_datasets_may_search_the_web_alone(world: World) -> None:
    made = talk(world, chatter("It rained on the web [ID:0]."), web=Web(page(1)))
    contents, events = await found_by(made, dataset_ids=(), prompt={"tavily_api_key": "sealed"})
    assert contents == ["It rained on the web."]
    assert only(events, Done).answer == "It rained on the web [ID:0]."
    assert made.retrieval.requests == []


@pytest.mark.parametrize("switch", ["agentic", "reasoning"])
async def test_a_model_may_search_the_web_by_itself(world: World, switch: str) -> None:
    looks = calls(call("search_knowledge", '{"question": "rain this year"}'))
    said = says("It rained on the web [ID:0].")
    chat = ScriptedReplies(looks, said) if switch == "agentic" else ScriptedReplies(looks, says(""), said)
    web = Web(page(1))
    made = talk(world, chat, web=web)
    dialog = made.dialog(dataset_ids=(), prompt={switch: True, "tavily_api_key": "sealed"})
    done = only(await all_of(made.ask("Did it rain?", dialog=dialog)), Done)
    assert [tool.name for tool in chat.requests[0].tools] == ["search_knowledge"]
    assert web.asked == [(ANN.tenant_id, "sealed", "rain this year")]
    assert done.answer == "It rained on the web [ID:0]."
    assert [chunk.url for chunk in done.reference.chunks] == ["https://h/1"]


@pytest.mark.parametrize("switch", ["agentic", "reasoning"])
@pytest.mark.parametrize(
    ("allowed", "searched"), [(False, ["Did it rain?"]), (True, ["rain this year", "rain of last year"])]
)
async def test_words_of_a_model_that_reads_the_datasets_go_to_the_web_only_where_the_chat_says_so(
    world: World, switch: str, allowed: bool, searched: list[str]
) -> None:
    looks = [
        calls(call("search_knowledge", f'{{"question": "rain {when}"}}')) for when in ("this year", "of last year")
    ]
    said = says("It rained on the web [ID:3].")
    chat = ScriptedReplies(*looks, said) if switch == "agentic" else ScriptedReplies(*looks, says(""), said)
    web = Web(page(1))
    made = talk(world, chat, web=web)
    prompt = {switch: True, "tavily_api_key": "sealed", "web_search_by_model": allowed}
    done = only(await all_of(made.ask("Did it rain?", dialog=made.dialog(prompt=prompt))), Done)
    assert [question for _, _, question in web.asked] == searched
    assert [request.question for request in made.retrieval.requests] == ["rain this year", "rain of last year"]
    assert "https://h/1" in [chunk.url for chunk in done.reference.chunks]


@pytest.mark.parametrize(("allowed", "more"), [(False, []), ("yes", []), (True, ["rain this year"])])
async def test_a_tool_that_searches_again_leaves_the_web_out(world: World, allowed: Any, more: list[str]) -> None:
    looks = calls(call("search_knowledge", '{"question": "rain this year"}'))
    web = Web(page(1))
    made = talk(world, ScriptedReplies(looks, says("It rained.")), web=web)
    prompt = {"tools": ["search_knowledge"], "tavily_api_key": "sealed", "web_search_by_model": allowed}
    await all_of(made.ask("Did it rain?", dialog=made.dialog(prompt=prompt)))
    assert [question for _, _, question in web.asked] == ["Did it rain?", *more]


@pytest.mark.parametrize(
    ("datasets", "allowed", "more"),
    [(("k1",), False, []), (("k1",), True, ["secret rain"]), ((), False, ["secret rain"])],
)
async def test_planned_searches_go_to_the_datasets_only(
    world: World, datasets: tuple[str, ...], allowed: bool, more: list[str]
) -> None:
    plans = (
        '{"thought": "", "queries": ["secret rain"], "enough": false}',
        '{"thought": "", "queries": [], "enough": true}',
    )
    web = Web(page(1))
    made = talk(world, ScriptedReplies(*(says(plan) for plan in plans), says("It rained."), tools=False), web=web)
    prompt = {"reasoning": True, "tavily_api_key": "sealed", "web_search_by_model": allowed}
    await all_of(made.ask("Did it rain?", dialog=made.dialog(prompt=prompt, dataset_ids=datasets)))
    assert [question for _, _, question in web.asked] == ["Did it rain?", *more]
    assert [request.question for request in made.retrieval.requests] == ["Did it rain?", "secret rain"] * len(datasets)


async def test_without_datasets_and_key_the_model_is_asked_alone(world: World) -> None:
    web = Web(page(1))
    made = talk(world, chatter("Hello."), web=web)
    events = await all_of(made.ask("Hi", dialog=made.dialog(dataset_ids=())))
    assert [type(event) for event in events] == [Started, Token, Usage, Done]
    unused = made.dialog(prompt={"tavily_api_key": "sealed", "parameters": [], "system": "S"})
    await all_of(made.ask("Hi", dialog=unused))
    assert web.asked == []


async def test_nothing_on_the_web_either_is_the_empty_response(world: World) -> None:
    made = talk(world, web=Web())
    prompt = {"tavily_api_key": "sealed", "empty_response": EMPTY}
    _, events = await found_by(made, dataset_ids=(), prompt=prompt)
    assert only(events, Done).answer == EMPTY


# ---- around the best, below the same heading


def below(*ordinals: int) -> tuple[Hit, ...]:
    (hit,) = hits("x")
    return tuple(replace(hit, chunk=passage(ordinal)) for ordinal in ordinals)


async def test_passages_below_the_same_heading_are_added_and_shown_as_one(world: World) -> None:
    read = Read()
    made = talk(world, read=read)
    made.retrieval.found = below(3)
    contents, events = await found_by(made, prompt={"toc_enhance": True})
    assert contents == [f"Passage {n} of doc0." for n in (3, 4, 2, 1, 0)]
    assert (read.readings[0].document, read.readings[0].dataset_ids) == ("doc0", ("k1",))
    shown = only(events, Done).prompt
    assert "<source ids=4,3,2,0,1>" in shown
    assert "headings" in only(events, Done).timings_ms


async def test_rows_are_read_below_the_same_heading(world: World) -> None:
    dataset = await world.dataset()
    document, _ = await world.parsed(dataset, "a.pdf", [f"Part {number}." for number in range(6)])

    def below_headings() -> Any:
        own = Chunk.document_id == document.id
        Chunk.update(heading_path=["One"]).where(own & (Chunk.ordinal < 3)).execute()
        Chunk.update(heading_path=["Two"]).where(own & (Chunk.ordinal >= 3)).execute()
        return next(iter(Chunk.select().where(own & (Chunk.ordinal == 1))))

    row = await world.db.write(below_headings)
    made = talk(world)
    made.retrieval.found = (unranked(text_of(row, "a.pdf")),)
    contents, _ = await found_by(made, dataset_ids=(dataset.id,), prompt={"toc_enhance": True})
    assert contents == ["Part 1.", "Part 2.", "Part 0."]


async def test_what_was_found_is_not_added_again(world: World) -> None:
    made = talk(world, read=Read())
    made.retrieval.found = below(1, 0)
    contents, _ = await found_by(made, prompt={"toc_enhance": True})
    assert contents == [f"Passage {n} of doc0." for n in (1, 0, 2, 3, 4)]


async def test_without_a_heading_or_the_switch_nothing_is_read(world: World) -> None:
    read = Read()
    made = talk(world, read=read)
    (hit,) = hits("x")
    made.retrieval.found = (replace(hit, chunk=passage(3, heading=())),)
    await found_by(made, prompt={"toc_enhance": True})
    made.retrieval.found = below(3)
    await found_by(made)
    assert read.readings == []


@pytest.mark.parametrize("error", [NotFound("document", "doc0"), StoreUnavailable("Away.")])
async def test_a_document_that_cannot_be_read_adds_nothing(world: World, error: Exception) -> None:
    made = talk(world, read=Read(error))
    made.retrieval.found = below(3)
    contents, events = await found_by(made, prompt={"toc_enhance": True})
    assert contents == ["Passage 3 of doc0."]
    assert not [event for event in events if isinstance(event, Failed)]


async def test_the_built_in_model_gets_the_same(world: World) -> None:
    local = chatter(CASH, local=True, capabilities=replace(ABLE, tools=False))
    made = talk(world, local, ranks=Ranks({CASH: 0.9, DEBT: 0.1, RAIN: 0.1}), web=Web(page(1)))
    contents, _ = await found_by(made, rerank_id="ranks@Acme", prompt={"tavily_api_key": "sealed"})
    assert contents == [CASH, "It rained on the web."]
