from tests.unit.api.db.services.test_chunk_rows import *  # noqa: F403
