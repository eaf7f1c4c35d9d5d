"""People: the single local user of a fresh folder, registration, login, and the tenant's defaults.

A login token is a signed pair (user id, secret); the row keeps the secret's sha256, which each login replaces, so
older tokens and cookies stop working, and logout removes. A cookie is signed over that hash: it lives exactly as
long, and a browser that signs in by the printed link signs no other browser out.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import unicodedata
from typing import TYPE_CHECKING, Any, Literal

from api.db.database import Database
from api.db.services.records import TenantRecord, UserRecord
from api.db.services.tenant_logins import note_change
from api.db.tables import Tenant, User
from rag.core import blocking
from rag.core.blocking import Lane
from rag.core.clock import Clock, now_ms
from rag.core.errors import Conflict, InvalidInput, NotAllowed, NotFound
from rag.core.ids import new_id
from rag.core.settings import AuthSettings
from rag.core.types import Principal, Scope

if TYPE_CHECKING:
    from argon2 import PasswordHasher
    from itsdangerous import URLSafeTimedSerializer

LOCAL_EMAIL = "local@localhost"
TENANT_FIELDS = ("name", "llm_id", "embd_id", "rerank_id", "asr_id", "img2txt_id", "tts_id")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_LONGEST_PASSWORD = 1024
_HASHES_AT_ONCE = 2
"""argon2id takes 64 MiB per hash: more at once would let a login flood eat the memory."""


class UserService:
    """Users and their tenants; a tenant's id equals its owner's user id.

    Args:
        secret: Signs login tokens and cookies; a process that signs nobody in may leave it out.
    """

    def __init__(self, db: Database, clock: Clock, auth: AuthSettings, *, secret: str = "") -> None:
        self._db = db
        self._clock = clock
        self._auth = auth
        self._secret = secret
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)

    async def ensure_local_user(self) -> Principal:
        """The oldest user of the folder; a fresh folder gets one without a password: the printed link signs in."""

        def write() -> str:
            first = User.select(User.id).order_by(User.create_time, User.id).first()
            return str(first.id) if first is not None else self._insert(LOCAL_EMAIL, "Local user", "", True).id

        user_id = await self._db.write(write)
        return Principal(tenant_id=user_id, user_id=user_id, scope=Scope.WEB, credential="cookie")

    async def register(self, email: str, nickname: str, password: str) -> tuple[UserRecord, str]:
        """Add a user with a tenant of their own and sign them in.

        Raises:
            NotAllowed: registration is switched off.
            InvalidInput: not an email address, or an empty or overlong password or name.
            Conflict: the address is taken.
        """
        if not self._auth.register_enabled:
            raise NotAllowed("User registration is disabled!")
        if not _EMAIL.fullmatch(email) or len(email) > 255:
            raise InvalidInput(f"Invalid email address: {email}!", field="email")
        if not nickname.strip() or len(nickname) > 255:
            raise InvalidInput("Nickname must have 1 to 255 characters.", field="nickname")
        password_hash = await self._hash(password)

        def write() -> tuple[UserRecord, str]:
            if User.select(User.id).where(User.email_norm == _norm(email)).exists():
                raise Conflict(f"Email: {email} has already registered!", field="email")
            user = self._insert(email, nickname.strip(), password_hash, False)
            return _user(user), self._rotate(user)

        return await self._db.write(write)

    async def login(self, email: str, password: str) -> tuple[UserRecord, str]:
        """Check the password and sign in; tokens and cookies made before stop working.

        Raises:
            NotFound: nobody has this address (the contract tells).
            NotAllowed: wrong password, or the user is suspended; fact `reason` is `password` or `suspended`.
        """
        user = await self._db.run(lambda: User.get_or_none(User.email_norm == _norm(email)))
        if user is None:
            raise NotFound("user", email, f"Email: {email} is not registered!")
        if not await self._verify(user.password_hash, password):
            raise NotAllowed("Email and password do not match!", reason="password")
        if not user.is_active:
            raise NotAllowed("This account has been disabled, please contact the administrator!", reason="suspended")

        def write() -> tuple[UserRecord, str]:
            row = User.get_by_id(user.id)
            row.last_login_time = now_ms(self._clock)
            token = self._rotate(row)
            return _user(row), token

        return await self._db.write(write)

    async def logout(self, principal: Principal) -> None:
        """End every login of the user, in all carriers."""
        update = User.update(login_secret_hash=None).where(User.id == principal.user_id)
        await self._db.write(update.execute)

    async def cookie_for(self, principal: Principal) -> str:
        """A value for the browser's cookie; other logins of the user stay valid."""

        def write() -> str:
            user = User.get_by_id(principal.user_id)
            if user.login_secret_hash is None:
                self._rotate(user)
            return str(user.login_secret_hash)

        stored = await self._db.write(write)
        return str(self._serializer("cookie").dumps([principal.user_id, _stamp(stored)]))

    async def principal_of_login(self, token: str) -> Principal | None:
        """Whom a login token stands for; None if forged, expired, rotated, logged out or suspended."""
        loaded = self._load("login", token)
        if loaded is None:
            return None
        user_id, secret = loaded
        return await self._principal(user_id, _sha256(secret), "login_token")

    async def principal_of_cookie(self, value: str) -> Principal | None:
        """Whom a cookie stands for; None if forged, expired, rotated, logged out or suspended."""
        loaded = self._load("cookie", value)
        if loaded is None:
            return None
        return await self._principal(loaded[0], loaded[1], "cookie")

    async def info(self, principal: Principal) -> UserRecord:
        """The user, without password hash and secrets."""
        return await self._db.run(lambda: _user(_get(User, "user", principal.user_id)))

    async def tenant_info(self, principal: Principal) -> TenantRecord:
        """The tenant and its default models; empty means the server's default."""
        return await self._db.run(lambda: _tenant(_get(Tenant, "tenant", principal.tenant_id)))

    async def set_tenant_info(self, principal: Principal, changes: dict[str, Any]) -> None:
        """Change the principal's own tenant; keys are those of `TENANT_FIELDS`, null means empty.

        Raises:
            InvalidInput: an unknown key, or a value that is no text of at most 255 characters.
        """
        values: dict[str, Any] = {"update_time": now_ms(self._clock)}
        for key, value in changes.items():
            if key not in TENANT_FIELDS:
                raise InvalidInput(f"Tenant has no field {key!r}.", field=key)
            text = "" if value is None else value
            if not isinstance(text, str) or len(text) > 255:
                raise InvalidInput(f"{key} must be a text of at most 255 characters.", field=key)
            values[key] = text

        def write() -> None:
            _get(Tenant, "tenant", principal.tenant_id)
            Tenant.update(**values).where(Tenant.id == principal.tenant_id).execute()
            note_change()

        await self._db.write(write)

    async def _principal(
        self, user_id: str, proof: str, credential: Literal["login_token", "cookie"]
    ) -> Principal | None:
        row = await self._db.run(lambda: User.get_or_none(User.id == user_id))
        if row is None or not row.is_active or row.login_secret_hash is None:
            return None
        expected = _stamp(row.login_secret_hash) if credential == "cookie" else row.login_secret_hash
        if not hmac.compare_digest(expected, proof):
            return None
        return Principal(tenant_id=row.id, user_id=row.id, scope=Scope.WEB, credential=credential)

    def _insert(self, email: str, nickname: str, password_hash: str, superuser: bool) -> User:
        now, user_id = now_ms(self._clock), new_id()
        Tenant.create(id=user_id, name=f"{nickname}‘s Kingdom"[:255], create_time=now, update_time=now)
        return User.create(
            id=user_id,
            email=email,
            email_norm=_norm(email),
            nickname=nickname,
            password_hash=password_hash,
            is_superuser=superuser,
            create_time=now,
            update_time=now,
        )

    def _rotate(self, user: User) -> str:
        """Give the user a fresh login secret and return its token; within a write."""
        secret = secrets.token_hex(32)
        user.login_secret_hash = _sha256(secret)
        user.save()
        return str(self._serializer("login").dumps([user.id, secret]))

    def _serializer(self, salt: str) -> "URLSafeTimedSerializer":
        from itsdangerous import URLSafeTimedSerializer  # 70 ms that a start does not need

        if not self._secret:
            raise NotAllowed("This process has no signing secret, so it signs nobody in.")
        return URLSafeTimedSerializer(
            self._secret, salt=f"parley-{salt}", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def _load(self, salt: str, token: str) -> tuple[str, str] | None:
        from itsdangerous import BadData  # as in _serializer

        try:
            loaded = self._serializer(salt).loads(token, max_age=self._auth.login_max_age_s)
        except (BadData, UnicodeError):
            return None
        if isinstance(loaded, list) and len(loaded) == 2 and all(isinstance(part, str) for part in loaded):
            return loaded[0], loaded[1]
        return None

    async def _hash(self, password: str) -> str:
        if not password or len(password) > _LONGEST_PASSWORD:
            raise InvalidInput(f"Password must have 1 to {_LONGEST_PASSWORD} characters.", field="password")
        async with self._hashing:
            return await blocking.run_in(Lane.FILES, lambda: _hasher().hash(password))

    async def _verify(self, password_hash: str, password: str) -> bool:
        if not password_hash or not password or len(password) > _LONGEST_PASSWORD:
            return False
        async with self._hashing:
            return await blocking.run_in(Lane.FILES, _matches, password_hash, password)


def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # 50 ms that a start does not need

    return PasswordHasher()


def _matches(password_hash: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError  # as in _hasher

    try:
        return _hasher().verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def _norm(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip().casefold()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _stamp(stored: str) -> str:
    """What a cookie carries of the stored hash: enough to see a rotation, useless for anything else."""
    return _sha256("cookie:" + stored)


def _get(table: Any, kind: str, row_id: str) -> Any:
    row = table.get_or_none(table.id == row_id)
    if row is None:
        raise NotFound(kind, row_id, f"{kind.capitalize()} not found!")
    return row


def _user(row: User) -> UserRecord:
    names = UserRecord.__dataclass_fields__
    return UserRecord(**{name: getattr(row, name) for name in names})


def _tenant(row: Tenant) -> TenantRecord:
    names = TenantRecord.__dataclass_fields__
    return TenantRecord(**{name: getattr(row, name) for name in names})
