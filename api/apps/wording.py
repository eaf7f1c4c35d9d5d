"""`keyword` and `cross_languages` of a search's body (chunks.md section 6; web.md section 5)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.apps.body import texts
from api.apps.context import services
from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from rag.core.types import Principal


async def worded(principal: Principal, request: RetrievalRequest, body: Mapping[str, Any]) -> RetrievalRequest:
    """The request with its question worded as the body asks; any `keyword` that is not empty is on.

    Raises:
        Refused: 101, `cross_languages` is no list of texts.
    """
    languages = texts(body.get("cross_languages") or [], "cross_languages")
    keywords = bool(body.get("keyword"))
    if not languages and not keywords:
        return request
    question = await services().wording.worded(principal, request.question, languages=languages, keywords=keywords)
    return replace(request, question=question[:LONGEST_QUESTION_CHARS])
