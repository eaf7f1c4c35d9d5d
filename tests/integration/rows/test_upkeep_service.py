from tests.unit.api.db.services.test_upkeep_service import *  # noqa: F403
