from tests.unit.api.db.services.test_usage_service import *  # noqa: F403
