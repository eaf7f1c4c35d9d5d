"""What the routes take that ask or search without a chat, for the OpenAPI document only: they check by themselves."""

from pydantic import BaseModel

from api.apps.sdk.chat_models import Ask


class AskDatasets(BaseModel):
    """Body of POST `/api/v1/sessions/ask`."""

    question: str
    dataset_ids: list[str]


class Related(BaseModel):
    """Body of POST `/api/v1/sessions/related_questions`; `industry` is the field that the questions should be of."""

    question: str
    industry: str = ""


class AskKnowledge(BaseModel):
    """Body of POST `/v1/conversation/ask`, `/api/v1/searchbots/ask` and of the mind maps, which are not supported.
    `search_id` must be empty: there are no search apps."""

    question: str
    kb_ids: list[str]
    search_id: str = ""


class RelatedTo(BaseModel):
    """Body of the related questions of page and search bots; `search_id` as above."""

    question: str
    search_id: str = ""


class RetrievalTest(BaseModel):
    """Body of POST `/api/v1/searchbots/retrieval_test`; the threshold works on the absolute score."""

    kb_id: str | list[str]
    question: str
    page: int = 1
    size: int = 30
    doc_ids: list[str] = []
    similarity_threshold: float = 0.0
    vector_similarity_weight: float = 0.3
    top_k: int = 1024
    rerank_id: str = ""
    highlight: bool = False


class ShareAsk(Ask):
    """Body of POST `/api/v1/chatbots/<chat>/completions`; further keys are values of the prompt's variables."""

    quote: bool = False


class SearchApp(BaseModel):
    """Query of GET `/api/v1/searchbots/detail`."""

    search_id: str = ""
