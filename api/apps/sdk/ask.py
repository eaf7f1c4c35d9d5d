"""`/api/v1/sessions/ask` and `/api/v1/sessions/related_questions` (sessions.md section 9)."""

from typing import Any

from quart import Blueprint, Response

from api.apps import repr_texts
from api.apps.ask_models import AskDatasets, Related
from api.apps.ask_wire import answer_from
from api.apps.auth import api_key_required
from api.apps.body import raw_object
from api.apps.context import services
from api.apps.envelope import sdk_result, uncaught
from api.apps.openapi import describe
from api.apps.sdk.lists import refused
from rag.core.errors import NotFound
from rag.core.types import Principal

bp = Blueprint("ask", __name__)


@bp.post("/api/v1/sessions/ask")
@api_key_required
@describe(request=AskDatasets, tag="sessions")
async def ask_datasets(principal: Principal) -> Response:
    """Ask datasets without a chat; the answer is streamed and not stored."""
    body = await raw_object()
    question = question_of(body)
    wanted = body.get("dataset_ids")
    if not wanted:
        raise refused("`dataset_ids` is required.")
    if not isinstance(wanted, list):
        raise refused("`dataset_ids` should be a list.")
    dataset_ids = list(dict.fromkeys(map(str, wanted)))
    for dataset_id in dataset_ids:
        try:
            dataset = await services().knowledgebases.get(principal, dataset_id)
        except NotFound as error:
            raise refused(f"You don't own the dataset {dataset_id}.") from error
        if dataset.chunk_count == 0:
            raise refused(f"The dataset {dataset_id} doesn't own parsed file")
    return answer_from(principal, dataset_ids, question)


@bp.post("/api/v1/sessions/related_questions")
@api_key_required
@describe(request=Related, tag="sessions")
async def related_questions(principal: Principal) -> Response:
    """Questions that may come next after a question; none where the model only quotes."""
    body = await raw_object()
    question, industry = question_of(body), body.get("industry") or ""
    if not isinstance(industry, str):
        raise uncaught(repr_texts.wrong_type("industry must be text", industry))
    return sdk_result(await services().related.questions(principal, question, industry))


def question_of(body: dict[str, Any]) -> str:
    """The question of a body.

    Raises:
        Refused: 102, it is absent or empty; 100, it is no text.
    """
    question = body.get("question")
    if not question:
        raise refused("`question` is required.")
    if not isinstance(question, str):
        raise uncaught(repr_texts.wrong_type("question must be text", question))
    return question
