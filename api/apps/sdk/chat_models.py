"""What chat and session routes take, for the OpenAPI document only: these routes check by themselves."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class ChatFields(BaseModel):
    """Body of POST `/chats` and PUT `/chats/<chat>`; an update without `dataset_ids` detaches all datasets."""

    name: str | None = None
    dataset_ids: list[str] = []
    avatar: str = ""
    description: str | None = None
    language: str | None = None
    llm: dict[str, Any] | None = None
    prompt: dict[str, Any] | None = None


class ListQuery(BaseModel):
    """Query of the lists of chats and sessions; `user_id` narrows sessions only."""

    page: int = 1
    page_size: int = 30
    orderby: str = "create_time"
    desc: str = "true"
    id: str = ""
    name: str = ""
    user_id: str = ""


class SessionFields(BaseModel):
    """Body of POST and PUT of a session; `llm_id`, its own model, is ours and of PUT only."""

    name: str = "New session"
    user_id: str = ""
    llm_id: str = ""


class Ask(BaseModel):
    """Body of POST `/chats/<chat>/completions`; further keys are values of the prompt's variables."""

    model_config = ConfigDict(extra="allow")

    question: str = ""
    session_id: str | None = None
    stream: bool = True
    quote: bool = True
    doc_ids: str = ""
    kb_ids: list[str] = []


class FollowQuery(BaseModel):
    """Query of the events of an answer, for readers that cannot send `Last-Event-ID`."""

    after: int = 0


class OpenAiAsk(BaseModel):
    """Body of POST `/chats_openai/<chat>/chat/completions`."""

    model: str
    messages: list[dict[str, Any]]
    stream: bool = True
    reference: bool = False
