from tests.unit.api.db.services.test_conversation_service import *  # noqa: F403
