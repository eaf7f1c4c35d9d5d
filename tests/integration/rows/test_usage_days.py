from tests.unit.api.db.services.test_usage_days import *  # noqa: F403
