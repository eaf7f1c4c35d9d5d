"""Datasets: what they are called, how their documents are cut, and which index they live in."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Protocol

from api.db.database import Database
from api.db.services.index_follow import Enqueued, IndexFollower
from api.db.services.names import clean_label, deduplicate, normalise
from api.db.services.owned import in_groups, own_dataset, split_duplicates
from api.db.services.parser_configs import default_parser_config
from api.db.services.rebuild_rows import next_place
from api.db.services.records import BatchResult, DatasetRecord, Page
from api.db.services.removal import remove_dataset
from api.db.services.row_limits import check_fits
from api.db.services.row_pages import page_of
from api.db.tables import Dataset, Document, IndexPlace, Tenant
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, InvalidInput, NotFound
from rag.core.ids import new_id
from rag.core.types import Principal
from rag.store.base import SearchStore

_CHANGEABLE = frozenset(
    (
        "name",
        "avatar",
        "description",
        "language",
        "embedding_model",
        "permission",
        "chunk_method",
        "parser_config",
        "pagerank",
        "similarity_threshold",
        "vector_similarity_weight",
    )
)
Records = list[DatasetRecord]


class EmbeddingModels(Protocol):
    """What datasets need to know of models."""

    def default_embedding(self, tenant_id: str = "") -> str: ...
    async def measure(self, embedding_model: str, tenant_id: str = "", *, key_id: str = "") -> int: ...


class KnowledgebaseService:
    """Every method loads by (principal, id); what is not the principal's is NotFound."""

    def __init__(self, db: Database, clock: Clock, store: SearchStore, models_catalogue: EmbeddingModels) -> None:
        self._db = db
        self._clock = clock
        self._models = models_catalogue
        self._index = IndexFollower(db, store)

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        avatar: str | None = None,
        description: str | None = None,
        embedding_model: str | None = None,
        permission: str = "me",
        chunk_method: str = "naive",
        parser_config: dict[str, Any] | None = None,
    ) -> DatasetRecord:
        """Make a dataset. A taken name gets a number: `name(1)`.

        Without `embedding_model` the tenant's default is used, or the server's. Without `parser_config` the
        chunk method's own is stored.

        Raises:
            InvalidInput: the name is blank, or the embedding model is unknown.
            LimitExceeded: the name has more than 255 characters.
            NotFound: kind `tenant`: the principal's tenant is gone.
        """
        wanted = _usable_name(name)
        check_fits(Dataset, {"name": wanted, "permission": permission, "chunk_method": chunk_method})
        model = embedding_model or await self._default_model(principal)
        dim = await self._dim_of(principal, model)

        def write() -> DatasetRecord:
            now = now_ms(self._clock)
            free = deduplicate(wanted, lambda candidate: _name_taken(principal, candidate))
            check_fits(Dataset, {"name": free})
            row = Dataset.create(
                id=new_id(),
                tenant_id=principal.tenant_id,
                created_by=principal.user_id,
                name=free,
                name_norm=normalise(free),
                avatar=avatar,
                description=description,
                embedding_model=model,
                permission=permission,
                chunk_method=chunk_method,
                parser_config=parser_config or default_parser_config(chunk_method),
                place=_place(principal.tenant_id, model, dim, now),
                create_time=now,
                update_time=now,
            )
            return _record(row)

        return await self._db.write(write)

    async def list(self, principal: Principal, page: Page, *, id: str = "", name: str = "") -> tuple[Records, int]:
        """The principal's datasets and how many there are before paging. `name` compares normalised.

        Raises:
            InvalidInput: `page.order_by` is no field of a dataset.
        """

        def read() -> tuple[list[DatasetRecord], int]:
            query = Dataset.select().where(Dataset.tenant_id == principal.tenant_id)
            if id:
                query = query.where(Dataset.id == id)
            if name:
                query = query.where(Dataset.name_norm == normalise(clean_label(name)))
            rows, total = page_of(query, Dataset, DatasetRecord, page)
            return [_record(row) for row in rows], total

        return await self._db.run(read)

    async def get(self, principal: Principal, dataset_id: str) -> DatasetRecord:
        """The principal's dataset, or NotFound."""
        return await self._db.run(lambda: _record(own_dataset(principal, dataset_id)))

    async def by_name(self, principal: Principal, name: str) -> DatasetRecord:
        """The principal's dataset of that name (compared normalised), or NotFound."""

        def read() -> DatasetRecord:
            row = Dataset.get_or_none(_named(principal, name))
            if row is None:
                raise NotFound("dataset", name)
            return _record(row)

        return await self._db.run(read)

    async def update(self, principal: Principal, dataset_id: str, changes: dict[str, Any]) -> DatasetRecord:
        """Store `changes` (fields of `DatasetRecord`, final values) and return the dataset.

        A new chunk method without a configuration brings its own. Documents keep theirs.

        Raises:
            NotFound: no such dataset of the principal.
            InvalidInput: a field that cannot be changed, a blank name, an unknown embedding model.
            LimitExceeded: a text does not fit: the name has at most 255 characters.
            Conflict: fact `field` is `name` (taken) or `embedding_model` (there are chunks, facts `chunk_count`
                and `current`; or a document is being parsed).
        """
        unknown = sorted(changes.keys() - _CHANGEABLE)
        if unknown:
            raise InvalidInput(f"A dataset's {unknown[0]!r} cannot be changed.", field=unknown[0])
        if "name" in changes:
            changes = changes | {"name": _usable_name(changes["name"])}
        check_fits(Dataset, changes)
        dim = await self._dim_of_new_model(principal, dataset_id, changes)

        def write() -> DatasetRecord:
            now = now_ms(self._clock)
            row = own_dataset(principal, dataset_id)
            _apply(row, changes, principal, place=lambda model: _place(principal.tenant_id, model, dim, now))
            row.update_time = now
            row.save(only=[*row.dirty_fields, Dataset.update_time])
            return _record(row)

        return await self._db.write(write)

    async def delete(self, principal: Principal, ids: Sequence[str] | None) -> BatchResult:
        """Delete datasets with everything in them; None means all of the principal's.

        Raises:
            NotFound: one is not the principal's; nothing is deleted. Fact `ids` names all such.
        """
        wanted, duplicates = split_duplicates(ids or ())

        def write() -> tuple[list[str], list[Enqueued]]:
            now = now_ms(self._clock)
            rows = _owned(principal, None if ids is None else wanted)
            enqueued: list[Enqueued] = []
            for row in rows:
                enqueued += remove_dataset(row, now)
            return [row.id for row in rows], enqueued

        done, enqueued = await self._db.write(write)
        await self._index.follow(enqueued)
        return BatchResult(done=tuple(done), duplicates=duplicates)

    async def _default_model(self, principal: Principal) -> str:
        def read() -> str:
            tenant = Tenant.get_or_none(Tenant.id == principal.tenant_id)
            if tenant is None:
                raise NotFound("tenant", principal.tenant_id)
            return str(tenant.embd_id)

        return await self._db.run(read) or self._models.default_embedding(principal.tenant_id)

    async def _dim_of_new_model(self, principal: Principal, dataset_id: str, changes: dict[str, Any]) -> int:
        """The vector length of the model that `changes` ask for, 0 if it stays."""

        def read() -> bool:
            row = own_dataset(principal, dataset_id)
            differs = changes.get("embedding_model") not in (None, row.embedding_model)
            if differs:
                _may_change_model(row)
            return differs

        if not await self._db.run(read):
            return 0
        return await self._dim_of(principal, changes["embedding_model"])

    async def _dim_of(self, principal: Principal, model: str) -> int:
        try:
            return await self._models.measure(model, principal.tenant_id, key_id=principal.key_id)
        except NotFound as error:
            raise InvalidInput(error.message, field="embedding_model") from error


def _usable_name(name: str) -> str:
    cleaned = clean_label(name)
    if not cleaned:
        raise InvalidInput(f"{name!r} is not a usable name.", field="name")
    return cleaned


def _named(principal: Principal, name: str) -> Any:
    return (Dataset.tenant_id == principal.tenant_id) & (Dataset.name_norm == normalise(clean_label(name)))


def _name_taken(principal: Principal, name: str) -> bool:
    return bool(Dataset.select(Dataset.id).where(_named(principal, name)).exists())


def _owned(principal: Principal, ids: Sequence[str] | None) -> list[Dataset]:
    """The principal's datasets: all, or those of `ids` in that order."""
    mine = Dataset.select().where(Dataset.tenant_id == principal.tenant_id)
    if ids is None:
        return list(mine.order_by(Dataset.create_time))
    found: dict[str, Dataset] = {}
    for group in in_groups(ids):
        found.update((row.id, row) for row in mine.where(Dataset.id.in_(group)))
    missing = tuple(one for one in ids if one not in found)
    if missing:
        error = NotFound("dataset", missing[0])
        error.facts["ids"] = missing
        raise error
    return [found[one] for one in ids]


def _place(tenant_id: str, model: str, dim: int, now: int) -> str:
    """The tenant's index of this model, made where there is none."""
    rows = list(IndexPlace.select().where(IndexPlace.tenant_id == tenant_id))
    for row in rows:
        if row.embedding_model == model and row.dim == dim:
            return str(row.name)
    name = next_place(tenant_id)
    IndexPlace.create(name=name, tenant_id=tenant_id, embedding_model=model, dim=dim, create_time=now, update_time=now)
    return name


def _may_change_model(row: Dataset) -> None:
    if row.chunk_count > 0:
        raise Conflict(
            f"The dataset has {row.chunk_count} chunks; its embedding model must remain {row.embedding_model!r}.",
            field="embedding_model",
            chunk_count=row.chunk_count,
            current=row.embedding_model,
        )
    if Document.select(Document.id).where((Document.dataset_id == row.id) & (Document.run == "RUNNING")).exists():
        raise Conflict(
            "A document of the dataset is being parsed; change the embedding model afterwards.",
            field="embedding_model",
            chunk_count=0,
            current=row.embedding_model,
        )


def _apply(row: Dataset, changes: dict[str, Any], principal: Principal, *, place: Callable[[str], str]) -> None:
    name = changes.get("name")
    if name is not None:
        norm = normalise(name)
        if norm != row.name_norm and _name_taken(principal, name):
            raise Conflict(f"Dataset name {name!r} already exists.", field="name")
        row.name_norm = norm
    model = changes.get("embedding_model")
    if model is not None and model != row.embedding_model:
        _may_change_model(row)
        row.embedding_model = model
        row.place = place(model)
    method = changes.get("chunk_method")
    if method is not None and method != row.chunk_method and not changes.get("parser_config"):
        row.parser_config = default_parser_config(method)
        changes = {field: value for field, value in changes.items() if field != "parser_config"}
    for field, value in changes.items():
        if field != "embedding_model":
            setattr(row, field, value)


def _record(row: Dataset) -> DatasetRecord:
    return DatasetRecord(**{field.name: getattr(row, field.name) for field in fields(DatasetRecord)})
