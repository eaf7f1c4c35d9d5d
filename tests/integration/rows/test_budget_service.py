from tests.unit.api.db.services.test_budget_service import *  # noqa: F403
