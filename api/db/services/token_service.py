"""API keys and share tokens: 256 and 192 random bits, kept as sha256, shown once."""

import hashlib
from typing import Any, Literal

from api.db.database import Database
from api.db.lookup import Lookup
from api.db.services.records import NewToken, TokenRecord
from api.db.tables import ApiToken, User
from rag.core.clock import Clock, now_ms
from rag.core.ids import new_id, new_secret, new_share_token
from rag.core.types import Principal, Scope

KEY_PREFIX = "ragflow-"
"""The wire contract's; clients check for it."""
_HINT_CHARS = 4


def secret_hash(secret: str) -> str:
    """sha256 hex. The secrets are random, so a slow hash would protect nothing."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class TokenService:
    """Keys of one tenant at a time; look-ups are by hash, so they take the same time whatever was sent."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(self, principal: Principal, name: str = "") -> NewToken:
        """Make a key and its share token. The result is the only place where they can be read."""
        key, share, now = new_secret(KEY_PREFIX), new_share_token(), now_ms(self._clock)

        def write() -> NewToken:
            row = ApiToken.create(
                id=new_id(),
                tenant_id=principal.tenant_id,
                token_hash=secret_hash(key),
                share_hash=secret_hash(share),
                hint=f"{KEY_PREFIX}…{key[-_HINT_CHARS:]}",
                name=name[:255],
                create_time=now,
                update_time=now,
            )
            return NewToken(record=_record(row), key=key, share=share)

        return await self._db.write(write)

    async def list(self, principal: Principal) -> list[TokenRecord]:
        """The tenant's live keys, oldest first; only their hints are readable."""

        def read() -> list[TokenRecord]:
            rows = ApiToken.select().where(ApiToken.tenant_id == principal.tenant_id, ApiToken.revoked_at.is_null())
            return [_record(row) for row in rows.order_by(ApiToken.create_time, ApiToken.id)]

        return await self._db.run(read)

    async def revoke(self, principal: Principal, token: str) -> bool:
        """Revoke the tenant's key named by itself, its id or its hint; False where there is none.

        A hint that several keys share names none of them.
        """
        now = now_ms(self._clock)

        def write() -> bool:
            own = (ApiToken.tenant_id == principal.tenant_id) & ApiToken.revoked_at.is_null()
            exact = (ApiToken.token_hash == secret_hash(token)) | (ApiToken.id == token)
            rows = list(ApiToken.select().where(own & exact))
            if not rows:
                rows = list(ApiToken.select().where(own & (ApiToken.hint == token)))
            if len(rows) != 1:
                return False
            changed = ApiToken.update(revoked_at=now, update_time=now).where(ApiToken.id == rows[0].id)
            return bool(changed.execute())

        return await self._db.write(write)

    async def principal_of_key(self, key: str) -> Principal | None:
        """Whom an API key stands for; None if unknown, revoked, or its user is suspended."""
        return await self._db.run(lambda: _principal(_OF_KEY.first(secret_hash(key)), "api_key"))

    async def principal_of_share(self, token: str) -> Principal | None:
        """Whom a share token stands for; it lives as long as its key."""
        return await self._db.run(lambda: _principal(_OF_SHARE.first(secret_hash(token)), "share_token"))


def _lookup(column: Any) -> Lookup[ApiToken]:
    """Of a live key whose user may come in, by a hash."""
    live = ApiToken.select(ApiToken.id, ApiToken.tenant_id).join(User, on=(User.id == ApiToken.tenant_id))
    return Lookup(
        ApiToken, lambda hashed: live.where(column == hashed, ApiToken.revoked_at.is_null(), User.is_active), 1
    )


_OF_KEY = _lookup(ApiToken.token_hash)
_OF_SHARE = _lookup(ApiToken.share_hash)


def _principal(row: ApiToken | None, credential: Literal["api_key", "share_token"]) -> Principal | None:
    if row is None:
        return None
    scope = Scope.API if credential == "api_key" else Scope.SHARE
    return Principal(tenant_id=row.tenant_id, user_id=row.tenant_id, scope=scope, credential=credential, key_id=row.id)


def _record(row: ApiToken) -> TokenRecord:
    return TokenRecord(
        id=row.id,
        tenant_id=row.tenant_id,
        hint=row.hint,
        name=row.name,
        has_share=row.share_hash is not None,
        create_time=row.create_time,
        update_time=row.update_time,
    )
