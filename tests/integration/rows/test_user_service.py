from tests.unit.api.db.services.test_user_service import *  # noqa: F403
