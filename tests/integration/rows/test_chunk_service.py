from tests.unit.api.db.services.test_chunk_service import *  # noqa: F403
