"""What the page's chats and conversations take, for the OpenAPI document only: their routes check by themselves."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class SetDialog(BaseModel):
    """Body of POST `/v1/dialog/set`; without `dialog_id` a chat is made. An update may name any column of the row."""

    prompt_config: dict[str, Any]
    dialog_id: str = ""
    name: str = "New Dialog"
    description: str = "A helpful dialog"
    icon: str = ""
    kb_ids: list[str] = []
    llm_id: str = ""
    llm_setting: dict[str, Any] = {}
    top_n: int = 6
    top_k: int = 1024
    rerank_id: str = ""
    similarity_threshold: float = 0.1
    vector_similarity_weight: float = 0.3
    meta_data_filter: dict[str, Any] = {}


class OneDialog(BaseModel):
    """Query that names a chat."""

    dialog_id: str


class NextQuery(BaseModel):
    """Query of POST `/v1/dialog/next`; everything is on one page unless page and size are both given."""

    keywords: str = ""
    page: int = 0
    page_size: int = 0
    orderby: str = "create_time"
    desc: str = "true"


class Owners(BaseModel):
    """Body of POST `/v1/dialog/next`."""

    owner_ids: list[str] = []


class DialogIds(BaseModel):
    """Body of POST `/v1/dialog/rm`."""

    dialog_ids: list[str]


class SetConversation(BaseModel):
    """Body of POST `/v1/conversation/set`; a new one may have an id of the client's."""

    conversation_id: str = ""
    is_new: bool
    dialog_id: str = ""
    name: str = "New conversation"


class OneConversation(BaseModel):
    """Query that names a conversation."""

    conversation_id: str


class ConversationIds(BaseModel):
    """Body of POST `/v1/conversation/rm`."""

    conversation_ids: list[str]


class Complete(BaseModel):
    """Body of POST `/v1/conversation/completion`; further keys are values of the prompt's variables.

    `messages` is the whole conversation, the last from the user, each with an `id`. With `llm_id` that model answers
    with the sampling settings of the body, and nothing is stored.
    """

    model_config = ConfigDict(extra="allow")

    conversation_id: str
    messages: list[dict[str, Any]]
    stream: bool = True
    llm_id: str = ""
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    max_tokens: int | None = None
    quote: bool = True
    doc_ids: str = ""


class OneMessage(BaseModel):
    """Body of POST `/v1/conversation/delete_msg`."""

    conversation_id: str
    message_id: str


class Rate(BaseModel):
    """Body of POST `/v1/conversation/thumbup`; `feedback` is kept with a down-vote only."""

    conversation_id: str
    message_id: str
    thumbup: bool = False
    feedback: str = ""


class Say(BaseModel):
    """Body of POST `/v1/conversation/tts`."""

    text: str
