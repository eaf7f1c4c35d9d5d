"""The use cases of one process, wired. Made in `api/app.py`, read by routes and commands."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rag.core.clock import Clock
from rag.core.settings import Settings

if TYPE_CHECKING:
    from api.db.database import Database
    from api.db.services.assistant_service import AssistantService
    from api.db.services.chunk_service import ChunkService
    from api.db.services.conversation_service import ConversationService
    from api.db.services.dialog_service import DialogService
    from api.db.services.document_service import DocumentService
    from api.db.services.knowledgebase_service import KnowledgebaseService
    from api.db.services.mcp_tools import McpServers
    from api.db.services.meters import Meters
    from api.db.services.model_catalogue import ModelCatalogue
    from api.db.services.related_service import RelatedService
    from api.db.services.retrieval_service import RetrievalService
    from api.db.services.task_service import TaskService
    from api.db.services.tenant_model_service import TenantModelService
    from api.db.services.token_service import TokenService
    from api.db.services.user_service import UserService
    from api.db.services.wording_service import WordingService
    from rag.blob.base import BlobStore
    from rag.eventlog.base import EventLog
    from rag.queue.base import JobQueue
    from rag.store.base import SearchStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Every service and the backends below them. One per process.

    `away` names the servers that cannot be used now, each with a sentence that says what to do; the wiring keeps it.
    """

    settings: Settings
    clock: Clock
    db: "Database"
    store: "SearchStore"
    blobs: "BlobStore"
    queue: "JobQueue"
    event_log: "EventLog"
    models: "ModelCatalogue"
    meters: "Meters"
    tenant_models: "TenantModelService"
    users: "UserService"
    tokens: "TokenService"
    knowledgebases: "KnowledgebaseService"
    documents: "DocumentService"
    chunks: "ChunkService"
    tasks: "TaskService"
    retrieval: "RetrievalService"
    mcp: "McpServers"
    dialogs: "DialogService"
    related: "RelatedService"
    wording: "WordingService"
    assistants: "AssistantService"
    conversations: "ConversationService"
    away: dict[str, str] = field(default_factory=dict)
