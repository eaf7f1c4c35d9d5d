"""What a rebuild of a place means for the rows. For use inside `Database.run` and `Database.write`.

A rebuild fills a new place beside the old one and compares: what lives in the rows, and what of it the new place
holds (`RebuiltVersion`). Whatever happens meanwhile shows in that comparison: a version that went live is missing, one
that was deleted or replaced is left over, one whose entries changed was marked stale in the transaction of the change.
The last comparison is made in the transaction that moves the datasets.
"""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from peewee import JOIN, fn

from api.db.services.owned import in_groups
from api.db.tables import (
    Chunk,
    Dataset,
    Document,
    DocumentVersion,
    IndexPlace,
    IndexRebuild,
    Outbox,
    RebuiltVersion,
    Task,
)
from rag.store.base import Place

FILLING, CLOSING, DROPPING = "filling", "closing", "dropping"
FILLED, STALE = "filled", "stale"
_GENERATION = re.compile(r"_g(\d+)$")
_ALL = 1 << 30
_DELETED_AT_ONCE = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Rebuild:
    """One place that is being rebuilt. `resumed` tells that an earlier run began it."""

    id: str
    tenant_id: str
    old: Place
    new: Place
    embedding_model: str
    state: str
    resumed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Missing:
    """A live version of which not all entries are in the new place; those up to `cursor` are, unless it is stale."""

    document_id: str
    version_id: str
    state: str
    cursor: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """A step ahead: `chunks` more of a version, up to `cursor`, are in the new place; all of them if `complete`."""

    version_id: str
    cursor: str
    chunks: int
    complete: bool


def generation_of(place: str) -> int:
    """The number at the end of a place's name; 0 if there is none."""
    match = _GENERATION.search(place)
    return int(match[1]) if match else 0


def next_place(tenant_id: str) -> str:
    """A name for the tenant's next place: no row has it, and none that is being filled or dropped."""
    names = [row.name for row in IndexPlace.select(IndexPlace.name).where(IndexPlace.tenant_id == tenant_id)]
    for row in IndexRebuild.select().where(IndexRebuild.tenant_id == tenant_id):
        names += [row.old_place, row.new_place]
    return f"t_{tenant_id}_g{max(map(generation_of, names), default=0) + 1}"


def mark_stale(document_id: str) -> None:
    """A document's live entries have to be made again: in places that are being filled, too."""
    RebuiltVersion.update(state=STALE).where(RebuiltVersion.document_id == document_id).execute()


def closing_datasets(now: int) -> Any:
    """Datasets whose ingestion waits for a switch; a rebuild that is not kept up holds nobody back."""
    closing = IndexRebuild.select(IndexRebuild.old_place).where(
        IndexRebuild.state == CLOSING, IndexRebuild.lease_until >= now
    )
    return Dataset.select(Dataset.id).where(Dataset.place.in_(closing))


def rebuild_of(row: IndexRebuild, *, resumed: bool = False) -> Rebuild:
    return Rebuild(
        id=row.id,
        tenant_id=row.tenant_id,
        old=Place(name=row.old_place, dim=row.dim),
        new=Place(name=row.new_place, dim=row.dim),
        embedding_model=row.embedding_model,
        state=row.state,
        resumed=resumed,
    )


def missing(rebuild: Rebuild, limit: int) -> list[Missing]:
    """Live versions that the new place does not hold in full, in the order of their documents."""
    rows = _missing(rebuild).order_by(Document.id).limit(limit)
    return [
        Missing(document_id=document_id, version_id=version_id, state=state or "", cursor=cursor or "")
        for document_id, version_id, state, cursor in rows.tuples()
    ]


def _missing(rebuild: Rebuild) -> Any:
    known = (RebuiltVersion.rebuild_id == rebuild.id) & (RebuiltVersion.version_id == Document.live_version)
    columns = (Document.id, Document.live_version, RebuiltVersion.state, RebuiltVersion.chunk_cursor)
    return (
        Document.select(*columns)
        .join(RebuiltVersion, JOIN.LEFT_OUTER, on=known)
        .where(_living(rebuild), RebuiltVersion.state.is_null() | (RebuiltVersion.state != FILLED))
    )


def _living(rebuild: Rebuild) -> Any:
    datasets = Dataset.select(Dataset.id).where(Dataset.place == rebuild.old.name)
    return Document.dataset_id.in_(datasets) & Document.live_version.is_null(False)


def begin_versions(rebuild: Rebuild, versions: Iterable[Missing]) -> None:
    """Note versions as being filled, before their rows are read: a change after this marks them stale."""
    for group in in_groups(versions):
        fresh = [
            {"rebuild_id": rebuild.id, "version_id": one.version_id, "document_id": one.document_id, "state": FILLING}
            for one in group
            if not one.state
        ]
        if fresh:
            RebuiltVersion.insert_many(fresh).execute()
        stale = [one.version_id for one in group if one.state == STALE]
        RebuiltVersion.update(state=FILLING, chunk_cursor="", chunks=0).where(
            RebuiltVersion.rebuild_id == rebuild.id, RebuiltVersion.version_id.in_(stale)
        ).execute()


def note_filled(rebuild: Rebuild, steps: Iterable[Filled]) -> None:
    """Note that these chunks are in the new place; a version that became stale meanwhile stays stale."""
    for step in steps:
        RebuiltVersion.update(
            chunk_cursor=step.cursor,
            chunks=RebuiltVersion.chunks + step.chunks,
            state=FILLED if step.complete else FILLING,
        ).where(
            RebuiltVersion.rebuild_id == rebuild.id,
            RebuiltVersion.version_id == step.version_id,
            RebuiltVersion.state == FILLING,
        ).execute()


def is_begun(rebuild: Rebuild) -> bool:
    """Whether anything may have been written to the new place."""
    return bool(RebuiltVersion.select().where(RebuiltVersion.rebuild_id == rebuild.id).exists())


def left_over(rebuild: Rebuild, limit: int) -> list[str]:
    """Versions in the new place that live no more (and never will again)."""
    alive = (Document.id == RebuiltVersion.document_id) & (Document.live_version == RebuiltVersion.version_id)
    rows = (
        RebuiltVersion.select(RebuiltVersion.version_id)
        .join(Document, JOIN.LEFT_OUTER, on=alive)
        .where(RebuiltVersion.rebuild_id == rebuild.id, Document.id.is_null())
        .limit(limit)
    )
    return [row.version_id for row in rows]


def forget_versions(rebuild: Rebuild, version_ids: Collection[str] | None = None) -> None:
    """Note no longer what is in the new place of these versions; None means of all."""
    if version_ids is None:
        RebuiltVersion.delete().where(RebuiltVersion.rebuild_id == rebuild.id).execute()
    for group in in_groups(version_ids or ()):
        RebuiltVersion.delete().where(
            RebuiltVersion.rebuild_id == rebuild.id, RebuiltVersion.version_id.in_(group)
        ).execute()


def forget(rebuild_id: str) -> None:
    """Remove a rebuild and all it noted."""
    RebuiltVersion.delete().where(RebuiltVersion.rebuild_id == rebuild_id).execute()
    IndexRebuild.delete().where(IndexRebuild.id == rebuild_id).execute()


def chunk_counts(rebuild: Rebuild) -> tuple[int, int]:
    """How many chunks of live versions the new place holds, and how many there are."""
    total = Document.select(fn.COALESCE(fn.SUM(Document.chunk_count), 0)).where(_living(rebuild)).scalar()
    done = (
        RebuiltVersion.select(fn.COALESCE(fn.SUM(RebuiltVersion.chunks), 0))
        .where(RebuiltVersion.rebuild_id == rebuild.id)
        .scalar()
    )
    # While a document is parsed again its count is 0, though its old version still lives.
    return int(done), max(int(total), int(done))


def noted_entries(rebuild: Rebuild) -> tuple[tuple[str, ...], int]:
    """The place's datasets, and how many available entries the new place must hold of them, by what was noted."""
    datasets = [row.id for row in Dataset.select(Dataset.id).where(Dataset.place == rebuild.old.name)]
    known = (RebuiltVersion.rebuild_id == rebuild.id) & (RebuiltVersion.version_id == Document.live_version)
    filled = (
        Document.select(fn.COUNT(Chunk.chunk_id))
        .join(RebuiltVersion, on=known)
        .join(Chunk, on=(Chunk.version_id == RebuiltVersion.version_id))
        .where(
            _living(rebuild),
            RebuiltVersion.state == FILLED,
            (Chunk.available == True) | (Document.enabled == False),  # noqa: E712  # Columns compared in SQL.
        )
    )
    begun = (
        Document.select(fn.COALESCE(fn.SUM(RebuiltVersion.chunks), 0))
        .join(RebuiltVersion, on=known)
        .where(_living(rebuild), RebuiltVersion.state == FILLING, Document.enabled == True)  # noqa: E712
    )
    return tuple(datasets), int(filled.scalar()) + int(begun.scalar())


def being_ingested(rebuild: Rebuild, now: int) -> int:
    """How many tasks run that write into the old place."""
    datasets = Dataset.select(Dataset.id).where(Dataset.place == rebuild.old.name)
    running = (Task.state == "running") & (Task.lease_until >= now) & Task.dataset_id.in_(datasets)
    return int(Task.select().where(running).count())


def switch(rebuild: Rebuild, *, now: int, drop_at: int) -> int:
    """Move the datasets to the new place, if it holds all that lives; returns how many versions are missing.

    What the old place still had to follow, the new one has to: hidden versions and the outbox move along.
    """
    absent = int(_missing(rebuild).count())
    if absent:
        return absent
    IndexPlace.delete().where(IndexPlace.name.in_([rebuild.old.name, rebuild.new.name])).execute()
    IndexPlace.create(
        name=rebuild.new.name,
        tenant_id=rebuild.tenant_id,
        embedding_model=rebuild.embedding_model,
        dim=rebuild.new.dim,
        create_time=now,
        update_time=now,
    )
    for table in (Dataset, DocumentVersion, Outbox):
        table.update(place=rebuild.new.name).where(table.place == rebuild.old.name).execute()
    for group in in_groups(left_over(rebuild, _ALL), _DELETED_AT_ONCE):
        Outbox.create(place=rebuild.new.name, action="delete", payload={"version_ids": group}, create_time=now)
    IndexRebuild.update(state=DROPPING, drop_at=drop_at, update_time=now).where(IndexRebuild.id == rebuild.id).execute()
    return 0
