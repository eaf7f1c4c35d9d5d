from tests.unit.api.db.services.test_rebuild_service import *  # noqa: F403
