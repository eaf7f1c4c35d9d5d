from tests.unit.api.db.services.test_usage_stats import *  # noqa: F403
