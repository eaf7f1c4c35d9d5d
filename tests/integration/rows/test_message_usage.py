from tests.unit.api.db.services.test_message_usage import *  # noqa: F403
