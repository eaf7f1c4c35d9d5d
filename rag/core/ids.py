"""All identifiers, made in one place.

Rows get version-1 UUIDs (the wire contract validates the version) with a random node and clock
sequence: Python's default would publish the machine's hardware address.
Chunks get content-hash ids, so ingesting twice is harmless.
"""

import secrets
import uuid

import xxhash

_MULTICAST_BIT = 1 << 40  # RFC 4122 section 4.5: marks a node id that is not a hardware address.


def new_id() -> str:
    """A row id: UUID version 1, 32 lower-case hex digits, no hyphens."""
    node = secrets.randbits(48) | _MULTICAST_BIT
    return uuid.uuid1(node=node, clock_seq=secrets.randbits(14)).hex


def is_row_id(text: str) -> bool:
    """Whether `text` is a version-1 UUID, with or without hyphens."""
    try:
        return uuid.UUID(text).version == 1
    except ValueError:
        return False


def new_message_id() -> str:
    """A message id: UUID version 4 with hyphens; a question and its answer share one."""
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def chunk_id(content: str, document_id: str) -> str:
    """xxhash64 of UTF-8 `content + document_id`, 16 hex digits (the wire contract's rule)."""
    return xxhash.xxh64((content + document_id).encode("utf-8", "surrogatepass")).hexdigest()


def new_secret(prefix: str = "") -> str:
    """`prefix` plus 43 URL-safe characters: 256 random bits."""
    return prefix + secrets.token_urlsafe(32)


def new_share_token() -> str:
    """A share ("beta") token: 32 URL-safe characters, 192 random bits."""
    return secrets.token_urlsafe(24)
