from tests.unit.api.db.services.test_knowledgebase_service import *  # noqa: F403
