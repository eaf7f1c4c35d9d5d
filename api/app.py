"""Wiring of the web process: backends, services, routes. Importing this module does no work."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from quart import Quart, Response

from api.apps import gate, openapi
from api.apps.auth import public
from api.apps.context import WebState, attach
from api.apps.incoming import IncomingRequest, PacedConnection
from api.apps.routes import BLUEPRINTS
from api.apps.telemetry import Telemetry
from api.backends import make_database, make_store
from api.db.data_folder import DataFolder
from api.db.database import Database
from api.db.services.answer_lease import AnswerLease
from api.db.services.asides import Asides
from api.db.services.assistant_service import AssistantService
from api.db.services.chunk_service import ChunkService
from api.db.services.container import Services
from api.db.services.conversation_service import ConversationService
from api.db.services.dialog_service import DialogService
from api.db.services.document_reader import DocumentReader
from api.db.services.document_service import DocumentService
from api.db.services.knowledgebase_service import KnowledgebaseService
from api.db.services.mcp_tools import McpServers
from api.db.services.meters import make_meters
from api.db.services.model_catalogue import ModelCatalogue
from api.db.services.queue_depth import queue_depth
from api.db.services.related_service import RelatedService
from api.db.services.retrieval_service import RetrievalService
from api.db.services.secret_box import SecretBox, former_secrets
from api.db.services.task_service import TaskService
from api.db.services.tenant_logins import TenantLogins
from api.db.services.tenant_model_service import TenantModelService
from api.db.services.token_service import TokenService
from api.db.services.toolbox import Toolbox
from api.db.services.user_service import UserService
from api.db.services.web_pages import WebPages
from api.db.services.wording_service import WordingService
from api.watch import RowsOnServer, ServerWatch, watch_index
from rag.blob.object_store import ObjectBlobStore
from rag.core.blocking import Lane, run_in
from rag.core.clock import Clock
from rag.core.errors import RagError
from rag.core.flags import Flags
from rag.core.settings import Settings
from rag.eventlog.memory import MemoryEventLog
from rag.llm.registry import Registry
from rag.prompts.loader import load_prompts
from rag.queue.base import JobQueue
from rag.retrieve.retriever import Retriever
from rag.retrieve.web_search import WebSearch
from rag.store.base import SearchStore

FIRST_KEY_NAME = "first key"
_FIRST_ANSWERS_S = 0.3
"""How long the first answers have the processor to themselves before loading begins."""
log = structlog.get_logger(__name__)


@asynccontextmanager
async def opened_services(
    settings: Settings, clock: Clock, queue: JobQueue, *, patient: bool = False
) -> AsyncIterator[Services]:
    """The use cases on the backends of `settings`, open: what is light is ready, what is heavy loads at its first use
    or in `warm`. Servers are watched meanwhile. Closes everything at the end.

    Args:
        patient: Whether to begin without servers that are down, and to open them as soon as that is possible.
    Raises:
        InvalidInput: the folder or a server cannot be used, or a newer version wrote it.
        StoreError: a server refuses us.
        StoreUnavailable: the disk is full, or rows or index cannot be opened.
    """
    folder = DataFolder(settings.data_dir)
    await run_in(Lane.FILES, folder.prepare)
    async with AsyncExitStack() as stack:
        db = make_database(settings, folder)
        stack.callback(db.close)
        given = settings.auth.secret
        secret = given.get_secret_value() if given is not None else await run_in(Lane.FILES, folder.secret)
        store = make_store(settings, folder, clock, watched=True)
        stack.push_async_callback(store.close)
        services = build_services(settings, clock, queue, db=db, folder=folder, secret=secret, store=store)
        stack.push_async_callback(services.mcp.close)
        await services.models.open()
        stack.push_async_callback(services.models.close)
        await _open_backends(services, folder, stack, patient=patient)
        watching = asyncio.create_task(services.models.watch(settings.models.tenants_refresh_s))
        stack.callback(watching.cancel)
        stack.push_async_callback(services.conversations.close, settings.server.shutdown_s)
        yield services


async def _open_backends(services: Services, folder: DataFolder, stack: AsyncExitStack, *, patient: bool) -> None:
    """Open the rows, and reach the servers among the backends; see `opened_services`."""
    settings, away = services.settings, services.away
    watches: list[ServerWatch] = []
    if settings.rows.url:
        rows = RowsOnServer(services.db, lambda: _prepare_rows(services, folder))
        watches.append(ServerWatch("rows", rows.reach, away))
    else:
        await run_in(Lane.ROWS, services.db.open)
        await _prepare_rows(services, folder)
    if settings.index.url:
        watches.append(ServerWatch("index", services.store.check, away))
    await asyncio.gather(*(watch.begin(patient=patient) for watch in watches))
    for watch in watches:
        task = asyncio.create_task(watch.run())
        stack.callback(task.cancel)


def build_services(
    settings: Settings,
    clock: Clock,
    queue: JobQueue,
    *,
    db: Database,
    folder: DataFolder,
    secret: str,
    store: SearchStore,
) -> Services:
    """Hand backends to services. Opens nothing."""
    blobs = ObjectBlobStore.in_folder(folder.files_path)
    event_log = MemoryEventLog(clock, retention_s=settings.dialog.event_retention_s)
    meters = make_meters(settings, db, clock)
    registry = Registry(settings)
    box = SecretBox(secret, *former_secrets(settings))
    private = settings.models.private_addresses
    logins = TenantLogins(db, box, private=private)
    models = ModelCatalogue(settings, registry, usage=meters.usage, clock=clock, logins=logins, budget=meters.budget)
    knowledgebases = KnowledgebaseService(db, clock, store, models)
    documents = DocumentService(db, clock, blobs, queue, store, settings.ingest)
    chunks = ChunkService(db, clock)
    retriever = Retriever(store=store, chunks=chunks, settings=settings.retrieval, clock=clock)
    retrieval = RetrievalService(db, retriever, models, clock, rerank_s=settings.retrieval.rerank_s)
    mcp = McpServers(settings.tools, clock)
    toolbox = Toolbox(settings.tools, DocumentReader(db), mcp)
    flags = Flags(settings.features.model_dump())
    prompts = load_prompts()
    dialogs = DialogService(
        retrieval,
        models,
        prompts,
        clock,
        toolbox=toolbox,
        flags=flags,
        metadata=documents,
        pages=WebPages(WebSearch(settings.web_search), box),
        research=settings.research,
        rerank_s=settings.retrieval.rerank_s,
    )
    conversations = ConversationService(
        db,
        clock,
        event_log,
        dialogs,
        settings.dialog,
        lease=AnswerLease(db, clock, home=folder.name_of_home(), shared=bool(settings.rows.url)),
        asides=Asides(db, clock, models, prompts, flags),
    )
    return Services(
        settings=settings,
        clock=clock,
        db=db,
        store=store,
        blobs=blobs,
        queue=queue,
        event_log=event_log,
        models=models,
        meters=meters,
        tenant_models=TenantModelService(
            db, clock, box, logins=logins, providers=registry, books=models.books, private_addresses=private
        ),
        users=UserService(db, clock, settings.auth, secret=secret),
        tokens=TokenService(db, clock),
        knowledgebases=knowledgebases,
        documents=documents,
        chunks=chunks,
        tasks=TaskService(db, clock, settings.ingest),
        retrieval=retrieval,
        dialogs=dialogs,
        related=RelatedService(models, prompts),
        wording=WordingService(models, prompts),
        mcp=mcp,
        assistants=AssistantService(db, clock, knowledgebases, models, box=box, answers=conversations),
        conversations=conversations,
    )


async def _prepare_rows(services: Services, folder: DataFolder) -> None:
    """What a fresh folder needs, and what a dead process left behind."""
    await services.models.refresh()
    owner = await services.users.ensure_local_user()
    if not await services.tokens.list(owner):
        key = (await services.tokens.create(owner, FIRST_KEY_NAME)).key
        await run_in(Lane.FILES, folder.write_first_key, key)
    await run_in(Lane.FILES, folder.sweep_tmp, services.clock)
    recovered = await services.conversations.recover()
    if recovered:
        log.info("answers_interrupted", count=recovered)


async def warm(services: Services, state: WebState) -> None:
    """Load what is heavy, in threads; `/readyz` waits for it. What fails is named there and tried at its first use."""
    await asyncio.sleep(_FIRST_ANSWERS_S)
    for name, step in _steps(services):
        try:
            await step()
        except RagError as error:
            state.failed[name] = error.message
            log.warning("warm_up_failed", part=name, code=error.code, reason=error.message)
        else:
            state.missing.discard(name)


def _steps(services: Services) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
    """What is loaded beside the first requests. A server needs no loading: it is watched."""
    steps: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("models", services.models.warm),
        ("modules", lambda: run_in(Lane.FILES, _import_late_modules)),
        ("tools", services.mcp.warm),
        ("memory", _settle_memory),
    ]
    return steps if services.settings.index.url else [("index", services.store.check), *steps]


async def _settle_memory() -> None:
    """What is loaded stays: the collector need not walk it again. The last walk holds the loop for some 90 ms, so it is
    done before the server says that it is ready."""
    gc.collect()
    gc.freeze()


def _import_late_modules() -> None:
    """What the first login, link or tool call would import on the event loop."""
    import argon2
    import itsdangerous
    import jsonschema
    from cryptography.hazmat.primitives.ciphers import aead

    log.debug("imported", modules=[argon2.__name__, itsdangerous.__name__, jsonschema.__name__, aead.__name__])


def create_app(settings: Settings, services: Services, state: WebState | None = None) -> Quart:
    """The web app on open services. Loading of what is heavy begins when it is started."""
    state = state or WebState()
    state.services = services
    state.missing |= {name for name, _ in _steps(services)}
    app = Quart("api", static_folder=None, template_folder=None)
    app.request_class = IncomingRequest
    app.asgi_http_class = PacedConnection
    app.config.update(
        MAX_CONTENT_LENGTH=None,  # each route has its own, see `api/apps/gate.py`
        PROPAGATE_EXCEPTIONS=False,
        TRAP_HTTP_EXCEPTIONS=False,
    )
    app.url_map.strict_slashes = False
    attach(app, state)
    telemetry = Telemetry(state)
    services.meters.usage.tell(telemetry.model_calls)
    gate.install(app, settings, telemetry)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    openapi.install(app)
    _serve_metrics(app, services, telemetry)
    _run_beside(
        app,
        lambda: telemetry.watch_loop(),
        lambda: warm(services, state),
        lambda: watch_index(services, state.notes),
    )
    return app


def _serve_metrics(app: Quart, services: Services, telemetry: Telemetry) -> None:
    @app.get("/metrics")
    @public
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        content = await telemetry.render(lambda: queue_depth(services.db))
        return Response(content, content_type="text/plain; version=0.0.4; charset=utf-8")


def _run_beside(app: Quart, *works: Callable[[], Awaitable[None]]) -> None:
    """Run `works` from the start of `app` to its stop."""
    tasks: list[asyncio.Future[None]] = []

    @app.before_serving
    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(work()) for work in works)

    @app.after_serving
    async def end() -> None:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
