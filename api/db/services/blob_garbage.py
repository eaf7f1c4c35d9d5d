"""Removing files that no document names any more."""

from api.db.database import Database
from api.db.tables import BlobGarbage, Document
from rag.blob.base import BlobStore
from rag.core.clock import Clock, now_ms

GRACE_S = 3600.0
"""An upload notes its file as garbage before it writes it; it must have ended by then."""
_AT_ONCE = 100


async def collect_blobs(db: Database, blobs: BlobStore, clock: Clock, *, older_than_s: float = GRACE_S) -> int:
    """Delete up to a hundred files that were noted as garbage `older_than_s` seconds ago; returns how many.

    Each file goes inside the transaction that looks whether a document names it, so that no upload of the same
    bytes can come in between.

    Raises:
        StoreUnavailable: rows or files cannot be reached; nothing is lost, call again.
    """
    before = now_ms(clock) - int(older_than_s * 1000)
    stale = BlobGarbage.create_time <= before
    query = BlobGarbage.select(BlobGarbage.blob_key).where(stale).order_by(BlobGarbage.create_time).limit(_AT_ONCE)
    keys = await db.run(lambda: [row.blob_key for row in query])
    removed = 0
    for key in keys:
        removed += await db.write(lambda key=key: _collect(blobs, key, before))  # type: ignore[misc]
    return removed


def _collect(blobs: BlobStore, key: str, before: int) -> bool:
    note = BlobGarbage.delete().where((BlobGarbage.blob_key == key) & (BlobGarbage.create_time <= before))
    if not note.execute():
        return False
    if Document.select(Document.id).where(Document.blob_key == key).exists():
        return False
    blobs.discard(key)
    return True
