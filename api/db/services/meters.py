"""What counts the model calls of a process: rows and prices, figures, budgets. Wired alike in web and worker."""

from dataclasses import dataclass

from api.db.database import Database
from api.db.services.budget_service import BudgetService
from api.db.services.usage_service import UsageService
from api.db.services.usage_stats import UsageStats
from rag.core.clock import Clock
from rag.core.settings import Settings
from rag.llm.prices import Prices


@dataclass(frozen=True, kw_only=True, slots=True)
class Meters:
    """`usage` is where a process's calls go; `budget` is asked before each of them, None where there is no limit."""

    usage: UsageService
    stats: UsageStats
    budget: BudgetService | None


def make_meters(settings: Settings, db: Database, clock: Clock) -> Meters:
    """The meters of one process. Reads nothing.

    Raises:
        InvalidInput: a price of the settings cannot be used.
    """
    prices = Prices(settings.prices)
    usage = UsageService(db, clock, prices=prices)
    budget = BudgetService(db, clock, settings.budget, prices=prices, longest_call_s=settings.dialog.answer_s)
    if budget.is_set:
        usage.tell(budget)
    return Meters(usage=usage, stats=UsageStats(db, clock), budget=budget if budget.is_set else None)
