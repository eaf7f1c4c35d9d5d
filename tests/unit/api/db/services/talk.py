"""A chat over a scripted model and a fixed retrieval, on real rows."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from api.db.services.asides import Asides
from api.db.services.assistant_service import AssistantService
from api.db.services.conversation_service import ConversationService
from api.db.services.dialog_service import AskOptions, DialogService
from api.db.services.document_reader import DocumentReader
from api.db.services.mcp_tools import McpServers
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.records import ConversationRecord, DialogRecord, MessageRecord, RetrievalRequest
from api.db.services.secret_box import SecretBox
from api.db.services.toolbox import McpTools, Toolbox
from api.db.services.usage_ledger import UsageSink
from rag.core.clock import SystemClock
from rag.core.errors import NotFound
from rag.core.events import DialogEvent
from rag.core.flags import Flags
from rag.core.settings import DialogSettings, Settings
from rag.core.tool_settings import ToolSettings
from rag.core.types import ChunkText, Hit, Position, Principal, Retrieved, Turn
from rag.eventlog.memory import MemoryEventLog
from rag.llm.base import ChatModel
from rag.llm.retry import RetryPolicy
from rag.prompts.loader import load_prompts
from rag.testing.models import FixedModels
from rag.testing.scripted_chat import ScriptedChat
from tests.unit.api.db.services.world import ANN, World

E = TypeVar("E")
BOX = SecretBox("a secret of tests, 32 characters.")

CASH = "The company held 42 billion dollars in cash at the end of 2022."
DEBT = "Total debt of the company fell to 17 billion dollars."
RAIN = "Rainfall in the northern valleys was moderate during spring."


def hits(*contents: str, dataset_id: str = "k1") -> tuple[Hit, ...]:
    return tuple(
        Hit(
            chunk=ChunkText(
                chunk_id=f"chunk{number}",
                document_id=f"doc{number}",
                version_id="v",
                dataset_id=dataset_id,
                document_name=f"report{number}.pdf",
                ordinal=number,
                content=content,
                heading_path=("Results", "Cash"),
                positions=(Position(page=number + 3, left=1, right=2, top=3, bottom=4),),
            ),
            rank=number + 1,
            similarity=0.5,
            vector_similarity=0.6,
            term_similarity=0.4,
            fused=1.0,
        )
        for number, content in enumerate(contents)
    )


class FixedRetrieval:
    """Finds always the same; datasets in `gone` do not exist. `gate` holds every search up until it is set."""

    def __init__(self, found: Sequence[Hit] = ()) -> None:
        self.found = tuple(found)
        self.requests: list[RetrievalRequest] = []
        self.gone: set[str] = set()
        self.gate: asyncio.Event | None = None
        self.error: Exception | None = None

    async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        for dataset_id in request.dataset_ids:
            if dataset_id in self.gone:
                raise NotFound("dataset", dataset_id)
        return Retrieved(hits=self.found[: request.page_size], total=len(self.found), timings_ms={"search": 1.0})


def chatter(script: Any = "The answer is 42 [ID:0].", *, local: bool = False, **more: Any) -> ScriptedChat:
    """A scripted model that stands for a real one."""
    made = ScriptedChat(script, **more)
    made.info = replace(made.info, local=local)
    return made


class Talk:
    """One chat of Ann's. `retrieval` and `chat` may be changed by a test."""

    def __init__(
        self,
        world: World,
        chat: ChatModel,
        *,
        save_s: float = 0.05,
        contents: Sequence[str] = (CASH, DEBT),
        tools: ToolSettings | None = None,
        mcp: McpTools | None = None,
        features: Mapping[str, str] | None = None,
        retrieval: Any = None,
        others: Sequence[ChatModel] = (),
        usage: UsageSink | None = None,
    ):
        self.world = world
        self.chat = chat
        self.retrieval = retrieval or FixedRetrieval(hits(*contents))
        policy = RetryPolicy(attempts=1)
        self.models = ModelCatalogue(Settings(), FixedModels([chat, *others]), policy=policy, usage=usage)
        self.log = MemoryEventLog(SystemClock(), retention_s=600)
        settings = tools or ToolSettings()
        toolbox = Toolbox(settings, DocumentReader(world.db), mcp or McpServers(settings, SystemClock()))
        prompts, flags = load_prompts(), Flags(features or {})
        self.flags, self.prompts = flags, prompts
        self.dialogs = DialogService(
            self.retrieval,
            self.models,
            prompts,
            SystemClock(),
            toolbox=toolbox,
            flags=flags,
            metadata=world.documents,
        )
        self.settings = DialogSettings(save_s=save_s)
        self.sessions = self.service()
        self.assistants = AssistantService(
            world.db, world.clock, world.knowledgebases, self.models, box=BOX, answers=self.sessions
        )

    def service(self) -> ConversationService:
        self.asides = Asides(self.world.db, self.world.clock, self.models, self.prompts, self.flags)
        return ConversationService(
            self.world.db, self.world.clock, self.log, self.dialogs, self.settings, asides=self.asides
        )

    def dialog(self, **changes: Any) -> DialogRecord:
        """A chat that is not stored, with the defaults."""
        prompt = changes.pop("prompt", {})
        base = DialogRecord(
            id="d1",
            tenant_id=ANN.tenant_id,
            name="chat",
            description="",
            icon="",
            language="English",
            llm_id=self.chat.info.name,
            llm_setting={"temperature": 0.1, "max_tokens": 512},
            prompt_type="simple",
            prompt_config={
                "system": "Answer from: {knowledge}",
                "parameters": [{"key": "knowledge", "optional": False}],
                "empty_response": "",
                "quote": True,
                "refine_multiturn": True,
            }
            | prompt,
            meta_data_filter={},
            similarity_threshold=0.2,
            vector_similarity_weight=0.3,
            top_n=6,
            top_k=1024,
            do_refer="1",
            rerank_id="",
            dataset_ids=("k1",),
            status="1",
            create_time=0,
            update_time=0,
        )
        return replace(base, **changes)

    def ask(
        self, *turns: str, dialog: DialogRecord | None = None, options: AskOptions | None = None
    ) -> AsyncGenerator[DialogEvent, None]:
        """The events of an answer; turns are the user's and the assistant's by turns, the user's last."""
        return self.dialogs.chat(ANN, dialog or self.dialog(), spoken(*turns), options=options, message_id="m")

    async def session(self, **fields: Any) -> tuple[DialogRecord, ConversationRecord]:
        """A stored chat without datasets of its own and a session in it."""
        chat = await self.assistants.create(ANN, {"name": "Chat", "llm_id": self.chat.info.name} | fields)
        return chat, await self.sessions.create(ANN, chat.id)

    async def answer_row(self, session: ConversationRecord, turn: int = 1) -> MessageRecord:
        found = await self.sessions.get(ANN, session.dialog_id, session.id)
        return next(each for each in found.messages if each.turn == turn and each.role == "assistant")


WITH_DATASET = AskOptions(dataset_ids=("k1",))


def spoken(*texts: str) -> tuple[Turn, ...]:
    last = len(texts) - 1
    return tuple(
        Turn(role="user" if (last - number) % 2 == 0 else "assistant", content=text)
        for number, text in enumerate(texts)
    )


async def all_of(events: AsyncGenerator[E, None]) -> list[E]:
    return [event async for event in events]


def only(events: Sequence[Any], kind: type[E]) -> E:
    """The one event of that kind."""
    (found,) = [event for event in events if isinstance(event, kind)]
    return found
