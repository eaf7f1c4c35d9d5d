"""Encryption of what rows keep but nobody may read there: the tenants' provider keys.

    v1.<key id>.<base64url of nonce, text and tag>

AES-256-GCM under a key that HKDF draws from the installation's secret. The owner's name is authenticated with it, so
a row that is moved to somebody else cannot be opened. The key id tells which secret sealed it: after a change of
the secret the former one, named in the settings, still opens what it sealed.
"""

import base64
import binascii
import hashlib
import secrets
from typing import TYPE_CHECKING

from pydantic import SecretStr

from rag.core.errors import StoreError
from rag.core.settings import Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = "v1"
_NONCE_BYTES = 12
_PURPOSE = b"parley provider keys v1"


class SecretBox:
    """Seals and opens texts. Holds no row and no opened text; may be used in any thread.

    Args:
        secret: The installation's secret; all processes on the same rows need the same one.
        former: Earlier secrets, which only open.
    """

    def __init__(self, secret: str, *former: str) -> None:
        self._secrets = {_key_id(one): one for one in (*reversed(former), secret)}
        self._current = _key_id(secret)

    def seal(self, text: str, *, owner: str) -> str:
        """`text` encrypted; only a call with the same `owner` opens it."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = _cipher(self._secrets[self._current]).encrypt(nonce, text.encode(), owner.encode())
        return f"{_VERSION}.{self._current}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, *, owner: str) -> SecretStr:
        """The text that `seal` got.

        Raises:
            StoreError: another secret sealed it, it is another owner's, or it is damaged.
        """
        # Imported here: the library takes 40 ms, which a process without provider keys of tenants does not pay.
        from cryptography.exceptions import InvalidTag

        version, _, rest = sealed.partition(".")
        key_id, _, content = rest.partition(".")
        if version != _VERSION or key_id not in self._secrets:
            raise StoreError(
                "The key was sealed with another secret than this process has. Start it with that one "
                "(PARLEY_AUTH__SECRET or PARLEY_AUTH__FORMER_SECRET), or set the key again."
            )
        try:
            raw = base64.b64decode(content, altchars=b"-_", validate=True)
            text = _cipher(self._secrets[key_id]).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], owner.encode())
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise StoreError("The sealed key is damaged, or belongs to somebody else. Set the key again.") from error
        return SecretStr(text.decode())


def former_secrets(settings: Settings) -> tuple[str, ...]:
    """The secrets of `settings` that only open."""
    former = settings.auth.former_secret
    return () if former is None else (former.get_secret_value(),)


def _key_id(secret: str) -> str:
    """Names a secret without telling it: it has 128 random bits or more."""
    return hashlib.sha256(b"parley key id\0" + secret.encode()).hexdigest()[:8]


def _cipher(secret: str) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret.encode())
    return AESGCM(key)
