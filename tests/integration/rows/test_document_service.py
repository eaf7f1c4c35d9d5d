from tests.unit.api.db.services.test_document_service import *  # noqa: F403
