"""What the bodies of all searches share (chunks.md section 6, web.md section 5): bounds, and the question's wording."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from api.apps import repr_texts
from api.apps.body import texts
from api.apps.context import services
from api.apps.envelope import uncaught
from api.db.services.records import RetrievalRequest
from api.db.services.retrieval_service import LONGEST_QUESTION_CHARS
from rag.core.types import Principal


def check_bounds(*, page: int, size: int, top_k: int) -> None:
    """Refuse what no search takes, in the contract's order (chunks.md section 6)."""
    if top_k <= 0:
        raise uncaught(repr_texts.NO_CANDIDATES)
    if size == 0:
        raise uncaught(repr_texts.ZERO_DIVISION)
    if page < 0 or size < 0:
        raise uncaught(repr_texts.NEGATIVE_PAGE)


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
