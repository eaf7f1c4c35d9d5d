"""Documents that a call names: those that are gone are left out."""

from api.db.services.dialog_brief import AskOptions, Brief, brief_of_dialog
from api.db.services.dialog_question import SearchPlan
from api.db.services.dialog_search import retrieved
from api.db.services.records import RetrievalRequest
from rag.core.errors import NotFound
from rag.core.types import Principal, Retrieved
from tests.unit.api.db.services.talk import CASH, Talk, chatter, hits
from tests.unit.api.db.services.world import ANN, World


def _brief(made: Talk) -> Brief:
    return brief_of_dialog(made.dialog(), AskOptions())


async def test_documents_that_are_gone_are_left_out_of_a_search(world: World) -> None:
    made = Talk(world, chatter())
    asked: list[tuple[str, ...]] = []

    class Gone:
        async def retrieve(self, principal: Principal, request: RetrievalRequest) -> Retrieved:
            asked.append(request.document_ids)
            missing = frozenset(request.document_ids) - {"here"}
            if missing:
                error = NotFound("document", min(missing))
                error.facts["missing"] = missing
                raise error
            return Retrieved(hits=hits(CASH), total=1)

    some = SearchPlan(question="cash", document_ids=("gone", "here", "lost"))
    assert len((await retrieved(Gone(), ANN, _brief(made), some)).hits) == 1
    assert asked == [("gone", "here", "lost"), ("here",)]
    none = SearchPlan(question="cash", document_ids=("gone", "lost"))
    assert (await retrieved(Gone(), ANN, _brief(made), none)).hits == ()
