from tests.unit.api.db.services.test_tenant_model_service import *  # noqa: F403
