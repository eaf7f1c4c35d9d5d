"""One question on its way to an answer: what every step of the pipeline is given."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from api.db.services.dialog_brief import Brief
from api.db.services.llm_service import LLMBundle
from api.db.services.model_catalogue import ModelCatalogue
from rag.core.clock import Clock
from rag.core.errors import NotFound
from rag.core.flags import Arms
from rag.core.types import Principal, Turn
from rag.prompts.loader import Prompts


class Steps:
    """What each step of one answer took, in milliseconds by name. Of one request, and passed to nobody else."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._taken_ms: dict[str, float] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note what happens inside the block, whatever its end; a step that is done again adds to what it took."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            self.add(name, (self._clock.monotonic() - began) * 1000)

    def until_first(self, name: str) -> Callable[[], None]:
        """Note what passes from now until the first call of what this gives; further calls do nothing."""
        began: list[float] = [self._clock.monotonic()]

        def happened() -> None:
            if began:
                self.add(name, (self._clock.monotonic() - began.pop()) * 1000)

        return happened

    def add(self, name: str, took_ms: float) -> None:
        self._taken_ms[name] = self._taken_ms.get(name, 0.0) + took_ms

    @property
    def taken_ms(self) -> dict[str, float]:
        """By name, in the order in which the steps ended; a tenth of a millisecond is the least that is told."""
        return {name: round(took, 1) for name, took in self._taken_ms.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """Who asks, for which message, with which settings, and the turns without system ones; the last is the question.

    `after` is what came after the question already: calls of the client's own tools, and what they gave. `summary`
    tells what was said before the turns.
    """

    principal: Principal
    brief: Brief
    turns: tuple[Turn, ...]
    message_id: str
    session_id: str
    arms: Arms
    models: ModelCatalogue
    prompts: Prompts
    steps: Steps = field(repr=False)
    after: tuple[Turn, ...] = ()
    summary: str = ""

    @property
    def question(self) -> str:
        return self.turns[-1].content

    def bundle(self, purpose: str = "answer") -> LLMBundle:
        """The model of this answer, for `purpose`, which its usage rows name.

        Raises:
            NotFound: there is no such model for this tenant.
        """
        brief = self.brief
        try:
            return self.models.bundle_chat(
                brief.model,
                tenant_id=self.principal.tenant_id,
                purpose=purpose,
                dialog_id=brief.dialog_id,
                conversation_id=self.session_id or None,
                message_id=self.message_id or None,
                key_id=self.principal.key_id,
                arm=self.arms.text,
                steps=(lambda: self.steps.taken_ms) if purpose == "answer" else None,
                fallbacks=brief.fallbacks,
                use_fallbacks=self.arms.fallback,
            )
        except NotFound as error:
            raise NotFound("model", brief.model, f"Model({brief.model}) not authorized") from error
