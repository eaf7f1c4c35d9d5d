"""Bodies and queries of `/api/v1/datasets`, validated strictly, refused in the contract's words (datasets.md 2, 3).

The texts of pydantic's own messages are those of the contract; where they are not, the validator here says them.
"""

from collections import Counter
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError, PydanticKnownError

from api.apps.envelope import bad_argument
from api.db.services.parser_configs import RAPTOR_PROMPT
from rag.core.ids import is_row_id

M = TypeVar("M", bound=BaseModel)
_SHOWN = 128
_LONGEST_TEXT = 65535
_MOST_IDS = 10_000
_MOST_LINES = 100
"""Of a refusal: a body of millions of wrong values is not answered with millions of lines."""

ChunkMethod = Literal[
    "naive",
    "book",
    "email",
    "laws",
    "manual",
    "one",
    "paper",
    "picture",
    "presentation",
    "qa",
    "table",
    "tag",
]


def _avatar(value: str) -> str:
    if "," not in value:
        raise PydanticCustomError("avatar", "Missing MIME prefix. Expected format: data:<mime>;base64,<data>")
    prefix = value.split(",", 1)[0]
    if not prefix.startswith("data:"):
        raise PydanticCustomError("avatar", "Invalid MIME prefix format. Must start with 'data:'")
    if prefix.removeprefix("data:").split(";")[0] not in ("image/jpeg", "image/png"):
        raise PydanticCustomError("avatar", "Unsupported MIME type. Allowed: ['image/jpeg', 'image/png']")
    return value


def _embedding_model(value: str) -> str:
    if "@" not in value:
        raise PydanticCustomError(
            "embedding_model", "Embedding model identifier must follow <model_name>@<provider> format"
        )
    model, provider = value.split("@", 1)
    if not model.strip() or not provider.strip():
        raise PydanticCustomError("embedding_model", "Both model_name and provider must be non-empty strings")
    return value


def _row_id(value: str) -> str:
    if not is_row_id(value):
        raise PydanticCustomError("uuid1", "Invalid UUID1 format")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=128)]
Avatar = Annotated[str, StringConstraints(max_length=_LONGEST_TEXT), AfterValidator(_avatar)]
Description = Annotated[str, StringConstraints(max_length=_LONGEST_TEXT)]
EmbeddingModel = Annotated[
    str, StringConstraints(strip_whitespace=True, max_length=255), AfterValidator(_embedding_model)
]
RowId = Annotated[str, AfterValidator(_row_id)]


def _not_too_many(ids: Any) -> Any:
    """Counts before anything is looked at: thousands of wrong ids would be thousands of errors, made on the loop."""
    if isinstance(ids, list) and len(ids) > _MOST_IDS:
        raise PydanticKnownError("too_long", {"field_type": "List", "max_length": _MOST_IDS, "actual_length": len(ids)})
    return ids


class Strict(BaseModel):
    """No coercion, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True)


class RaptorConfig(Strict):
    use_raptor: bool = False
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] = RAPTOR_PROMPT
    max_token: int = Field(256, ge=1, le=2048)
    threshold: float = Field(0.1, ge=0, le=1)
    max_cluster: int = Field(64, ge=1, le=1024)
    random_seed: int = Field(0, ge=0, le=2**63 - 1)


class GraphragConfig(Strict):
    use_graphrag: bool = False
    entity_types: list[str] = ["organization", "person", "geo", "event", "category"]
    method: Literal["light", "general"] = "light"
    community: bool = False
    resolution: bool = False


class ParserConfig(Strict):
    auto_keywords: int = Field(0, ge=0, le=32)
    auto_questions: int = Field(0, ge=0, le=10)
    chunk_token_num: int = Field(512, ge=1, le=2048)
    delimiter: str = Field("\\n", min_length=1)
    html4excel: bool = False
    layout_recognize: str = "DeepDOC"
    tag_kb_ids: list[str] = []
    topn_tags: int = Field(1, ge=1, le=10)
    filename_embd_weight: float | None = Field(0.1, ge=0, le=1)
    task_page_size: int | None = Field(None, ge=1)
    pages: list[list[int]] | None = None
    raptor: RaptorConfig = RaptorConfig()
    graphrag: GraphragConfig = GraphragConfig()


def _parser_config(value: ParserConfig | None) -> ParserConfig | None:
    if value is not None:
        size = len(orjson.dumps(value.model_dump()).decode())
        if size > _LONGEST_TEXT:
            raise PydanticCustomError(
                "size", f"Parser config exceeds size limit (max 65,535 characters). Current size: {size:,}"
            )
    return value


Config = Annotated[ParserConfig | None, AfterValidator(_parser_config)]


class CreateDataset(Strict):
    """Body of POST `/datasets`."""

    name: Name
    avatar: Avatar | None = None
    description: Description | None = None
    embedding_model: EmbeddingModel | None = None
    permission: Literal["me", "team"] = "me"
    chunk_method: ChunkMethod = "naive"
    parser_config: Config = None


class UpdateDataset(Strict):
    """Body of PUT `/datasets/<dataset_id>`; the path's id is checked with it."""

    dataset_id: RowId
    name: Name = ""
    avatar: Avatar | None = None
    description: Description | None = None
    embedding_model: EmbeddingModel | None = None
    permission: Literal["me", "team"] = "me"
    chunk_method: ChunkMethod = "naive"
    parser_config: Config = None
    pagerank: int = Field(0, ge=0, le=100)


class DeleteDatasets(Strict):
    """Body of DELETE `/datasets`: null means all of the tenant."""

    ids: Annotated[list[RowId], BeforeValidator(_not_too_many)] | None

    def plain_ids(self) -> list[str] | None:
        """The ids without hyphens.

        Raises:
            Refused: 101, an id comes twice.
        """
        if self.ids is None:
            return None
        plain = [each.replace("-", "").lower() for each in self.ids]
        twice = [each for each, count in Counter(plain).items() if count > 1]
        if twice:
            text = f"Duplicate ids: '{', '.join(twice)}'"
            raise bad_argument(error_line(("ids",), text, self.ids))
        return plain


class ListDatasets(BaseModel):
    """Query of GET `/datasets`; texts are read as numbers and truth values here."""

    model_config = ConfigDict(extra="forbid")

    id: RowId | None = None
    name: str | None = None
    page: int = Field(1, ge=1)
    page_size: int = Field(30, ge=1)
    orderby: Literal["create_time", "update_time"] = "create_time"
    desc: bool = True


def validate(model: type[M], value: dict[str, Any]) -> M:
    """`value` as `model`.

    Raises:
        Refused: 101, one line per error.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        shown = islice(error.errors(include_url=False), _MOST_LINES)
        lines = [error_line(each["loc"], each["msg"], each["input"]) for each in shown]
        raise bad_argument("\n".join(lines)) from error


def error_line(path: tuple[int | str, ...], text: str, value: Any) -> str:
    """One line of the contract's validation message."""
    shown = str(value)
    if len(shown) > _SHOWN:
        shown = shown[: _SHOWN - 3] + "..."
    return f"Field: <{'.'.join(str(part) for part in path)}> - Message: <{text}> - Value: <{shown}>"
