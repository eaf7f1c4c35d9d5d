"""What document routes take, for the OpenAPI document only: these routes check by themselves (body class T)."""

from typing import Any

from pydantic import BaseModel


class Ids(BaseModel):
    """Objects by id; none at all means every one."""

    ids: list[str] | None = None


class DocumentIds(BaseModel):
    """Documents by id."""

    document_ids: list[str]


class UpdateDocument(BaseModel):
    """Body of PUT `/datasets/<d>/documents/<doc>`."""

    name: str | None = None
    parser_config: dict[str, Any] | None = None
    chunk_method: str | None = None
    meta_fields: dict[str, Any] | None = None
    enabled: bool | int | None = None


class ListDocuments(BaseModel):
    """Query of GET `/datasets/<d>/documents`."""

    page: int = 1
    page_size: int = 30
    orderby: str = "create_time"
    desc: str = "true"
    keywords: str = ""
    id: str = ""
    name: str = ""
    suffix: str = ""
    run: str = ""
    create_time_from: int = 0
    create_time_to: int = 0


class ListChunks(BaseModel):
    """Query of GET `/datasets/<d>/documents/<doc>/chunks`."""

    page: int = 1
    page_size: int = 30
    keywords: str = ""
    id: str = ""


class Retrieval(BaseModel):
    """Body of POST `/retrieval`."""

    question: str
    dataset_ids: list[str]
    document_ids: list[str] = []
    page: int = 1
    page_size: int = 30
    similarity_threshold: float = 0.2
    vector_similarity_weight: float = 0.3
    top_k: int = 1024
    rerank_id: str | None = None
    keyword: bool = False
    cross_languages: list[str] = []
    highlight: bool = True
    metadata_condition: dict[str, Any] | None = None
