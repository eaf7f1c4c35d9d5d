"""Whose an embedding made over HTTP is."""

from pathlib import Path

from api.db.tables import ApiToken, Usage
from tests.unit.api.apps.web import web


async def test_the_row_names_tenant_and_key(tmp_path: Path) -> None:
    """Budgets of single keys are kept by it."""
    async with web(tmp_path) as site:
        ann = await site.person("ann")
        await site.call("POST", "/v1/embeddings", ann, json={"model": "minilm@Builtin", "input": "two words"})
        await site.services.models.settle()
        row = await site.services.db.run(lambda: Usage.get(Usage.purpose == "embed"))
        key = await site.services.db.run(lambda: ApiToken.get(ApiToken.tenant_id == ann.principal.tenant_id))
    assert row.tenant_id == ann.principal.tenant_id
    assert row.key_id == key.id
    assert row.provider == "Builtin"
