from tests.unit.api.db.services.test_task_service import *  # noqa: F403
