"""The one way to a dataset or a document: by the principal and the id. Foreign and absent look the same.

For use inside `Database.run` and `Database.write`.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from api.db.tables import Dataset, Document
from rag.core.errors import NotFound
from rag.core.types import Principal

T = TypeVar("T")

IN_LIST = 500
"""Values in one `IN (...)`: engines limit the parameters of a statement."""


def in_groups(values: Iterable[T], size: int = IN_LIST) -> Iterator[list[T]]:
    """`values` in lists of at most `size`."""
    iterator = iter(values)
    while group := list(islice(iterator, size)):
        yield group


def own_dataset(principal: Principal, dataset_id: str) -> Dataset:
    """The principal's dataset.

    Raises:
        NotFound: there is none, or it is another tenant's.
    """
    row = Dataset.get_or_none((Dataset.id == dataset_id) & (Dataset.tenant_id == principal.tenant_id))
    if row is None:
        raise NotFound("dataset", dataset_id)
    return row


def dataset_places(tenant_id: str, dataset_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Place and embedding model of those of `dataset_ids` that are the tenant's."""
    found: dict[str, tuple[str, str]] = {}
    for group in in_groups(dataset_ids):
        own = Dataset.id.in_(group) & (Dataset.tenant_id == tenant_id)
        rows = Dataset.select(Dataset.id, Dataset.place, Dataset.embedding_model).where(own)
        found.update((row.id, (row.place, row.embedding_model)) for row in rows)
    return found


def own_document(principal: Principal, dataset_id: str, document_id: str) -> tuple[Dataset, Document]:
    """The principal's dataset and the document in it.

    Raises:
        NotFound: kind `dataset` or `document`; a document of another dataset is not found.
    """
    dataset = own_dataset(principal, dataset_id)
    row = Document.get_or_none((Document.id == document_id) & (Document.dataset_id == dataset.id))
    if row is None:
        raise NotFound("document", document_id)
    return dataset, row


def own_document_anywhere(principal: Principal, document_id: str) -> Document:
    """The document in whichever dataset of the principal.

    Raises:
        NotFound: there is none, or it is another tenant's.
    """
    row = Document.get_or_none((Document.id == document_id) & (Document.tenant_id == principal.tenant_id))
    if row is None:
        raise NotFound("document", document_id)
    return row


def own_documents(dataset: Dataset, ids: Sequence[str]) -> dict[str, Document]:
    """Those of `ids` that are documents of `dataset`, by id."""
    found: dict[str, Document] = {}
    for group in in_groups(ids):
        rows = Document.select().where((Document.dataset_id == dataset.id) & (Document.id.in_(group)))
        found.update((row.id, row) for row in rows)
    return found


def split_duplicates(ids: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`ids` without repetition, in order, and those that were repeated (each once)."""
    seen: dict[str, int] = {}
    for one in ids:
        seen[one] = seen.get(one, 0) + 1
    return tuple(seen), tuple(one for one, count in seen.items() if count > 1)
