from tests.unit.api.db.services.test_tool_sources import *  # noqa: F403
