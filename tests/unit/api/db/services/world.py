"""Two tenants, fakes below them, and short ways to make what tests look at."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from api.db.database import Database
from api.db.services.chunk_rows import write_rows
from api.db.services.chunk_service import ChunkService
from api.db.services.document_service import DocumentService
from api.db.services.knowledgebase_service import KnowledgebaseService
from api.db.services.records import DatasetRecord, DocumentRecord
from api.db.tables import Dataset, Document, DocumentVersion, Task, Tenant
from rag.core.errors import NotFound, StoreUnavailable
from rag.core.ids import chunk_id
from rag.core.settings import IngestSettings
from rag.core.types import ChunkText, Position, Principal, Scope
from rag.store.base import Place, Selector
from rag.testing.memory_blobs import MemoryBlobs
from rag.testing.memory_queue import MemoryQueue

MAX_FILE_BYTES = 1000


def principal(name: str) -> Principal:
    return Principal(tenant_id=name, user_id=name, scope=Scope.API, credential="api_key")


ANN, BOB = principal("ann"), principal("bob")


@dataclass
class TestClock:
    """Moves a millisecond at each look, so that orders by time are certain."""

    __test__ = False
    instant: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        self.instant += timedelta(milliseconds=1)
        return self.instant

    def monotonic(self) -> float:
        return self.instant.timestamp()

    def pass_s(self, seconds: float) -> None:
        self.instant += timedelta(seconds=seconds)


class Models:
    def default_embedding(self, tenant_id: str = "") -> str:
        return "minilm@Builtin"

    async def measure(self, embedding_model: str, tenant_id: str = "", *, key_id: str = "") -> int:
        if embedding_model.startswith("unknown"):
            raise NotFound("model", embedding_model)
        return 384 if embedding_model == "minilm@Builtin" else 8


@dataclass
class DeletingStore:
    """The part of a store that the services use; can be out of order."""

    deleted: list[tuple[Place, Selector]] = field(default_factory=list)
    broken: bool = False

    async def delete(self, place: Place, selector: Selector) -> None:
        if self.broken:
            raise StoreUnavailable("The index does not answer.")
        self.deleted.append((place, selector))


class World:
    def __init__(self, folder: Path, db: Database) -> None:
        self.folder = folder
        self.db = db
        self.db.open()
        self.clock = TestClock()
        self.blobs = MemoryBlobs()
        self.queue = MemoryQueue()
        self.store = DeletingStore()
        self.knowledgebases = KnowledgebaseService(self.db, self.clock, self.store, Models())  # type: ignore[arg-type]
        ingest = IngestSettings(max_file_bytes=MAX_FILE_BYTES)
        self.documents = DocumentService(
            self.db,
            self.clock,
            self.blobs,
            self.queue,
            self.store,
            ingest,  # type: ignore[arg-type]
        )
        self.chunks = ChunkService(self.db, self.clock)
        for person in (ANN, BOB):
            self.db.write_blocking(
                lambda person=person: Tenant.create(id=person.tenant_id, name="x", create_time=1, update_time=1)
            )

    async def dataset(self, owner: Principal = ANN, name: str = "reports", **more: object) -> DatasetRecord:
        return await self.knowledgebases.create(owner, name=name, **more)  # type: ignore[arg-type]

    async def document(
        self, dataset: DatasetRecord, name: str = "a.pdf", content: bytes = b"bytes", **more: str
    ) -> DocumentRecord:
        staged = self.folder / "staged"
        staged.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        return await self.documents.add(
            principal(dataset.tenant_id),
            dataset.id,
            name=name,
            staged=staged,
            size=len(content),
            sha256=digest,
            **more,
        )

    async def ingested(self, document: DocumentRecord, contents: list[str]) -> str:
        """Carry the document's queued task out, as a worker would; returns the version."""

        def finish() -> str:
            task = Task.get((Task.document_id == document.id) & (Task.state == "queued"))
            row = Document.get_by_id(document.id)
            chunks = [chunk(document, task.version_id, n, text) for n, text in enumerate(contents)]
            write_rows(chunks)
            Dataset.update(
                chunk_count=Dataset.chunk_count + len(chunks), token_count=Dataset.token_count + 5 * len(chunks)
            ).where(Dataset.id == row.dataset_id).execute()
            if row.live_version:
                DocumentVersion.create(
                    id=row.live_version,
                    document_id=row.id,
                    dataset_id=row.dataset_id,
                    place="p",
                    state="dead",
                    create_time=0,
                    update_time=0,
                )
            DocumentVersion.delete().where(DocumentVersion.id == task.version_id).execute()
            row.live_version, row.run, row.progress = task.version_id, "DONE", 1.0
            row.chunk_count, row.token_count = len(chunks), 5 * len(chunks)
            row.save()
            task.state = "done"
            task.save()
            return str(task.version_id)

        return await self.db.write(finish)

    async def parsed(self, dataset: DatasetRecord, name: str, contents: list[str]) -> tuple[DocumentRecord, str]:
        owner = principal(dataset.tenant_id)
        document = await self.document(dataset, name, content=name.encode())
        await self.documents.parse(owner, dataset.id, [document.id])
        return document, await self.ingested(document, contents)


def chunk(document: DocumentRecord, version_id: str, ordinal: int, content: str) -> ChunkText:
    return ChunkText(
        chunk_id=chunk_id(content, document.id),
        document_id=document.id,
        version_id=version_id,
        dataset_id=document.dataset_id,
        document_name=document.name,
        ordinal=ordinal,
        content=content,
        positions=(Position(page=ordinal // 2 + 1, left=1, right=2, top=10.0 * ordinal, bottom=50),),
        token_count=5,
    )
