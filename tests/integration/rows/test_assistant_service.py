from tests.unit.api.db.services.test_assistant_service import *  # noqa: F403
