"""Features that can be switched: off, on, for listed tenants, or for a stable share of the sessions.

Which side of a switch a call was on is its arm; usage rows carry it, so that both sides can be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import xxhash

Flag = Literal["partial_tool_streaming", "fallback", "summaries", "prompt_caching"]
FLAGS: tuple[Flag, ...] = get_args(Flag)
_HASHES = 2**64


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """When a feature is on: for `percent` of the sessions (0 to 100), and for all of `tenants`."""

    percent: float = 0.0
    tenants: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class Arms:
    """The side of each switch that one session is on."""

    partial_tool_streaming: bool = False
    fallback: bool = False
    summaries: bool = False
    prompt_caching: bool = False

    @property
    def text(self) -> str:
        """`fallback=on,partial_tool_streaming=off,...`, by name: what usage rows keep."""
        return ",".join(f"{flag}={'on' if getattr(self, flag) else 'off'}" for flag in sorted(FLAGS))


def parse_rule(value: object) -> Rule:
    """The rule that a setting names.

    Args:
        value: `on`, `off` (YAML makes true and false of them), `tenants:<id>,<id>` or `share:<percent>`, 0 to 100.
    Raises:
        ValueError: anything else.
    """
    text = {True: "on", False: "off"}.get(value) if isinstance(value, bool) else str(value).strip()
    if text in ("on", "off"):
        return Rule(percent=100.0 if text == "on" else 0.0)
    kind, _, rest = str(text).partition(":")
    if kind == "tenants":
        tenants = frozenset(one.strip() for one in rest.split(",")) - {""}
        if tenants:
            return Rule(tenants=tenants)
    if kind == "share":
        return Rule(percent=_percent(rest))
    raise ValueError("write on, off, tenants:<id>,<id> or share:<percent>")


def _percent(text: str) -> float:
    try:
        percent = float(text)
    except ValueError:
        raise ValueError("a share is a number of percent, such as share:12.5") from None
    if not 0 <= percent <= 100:
        raise ValueError("a share is 0 to 100 percent")
    return percent


class Flags:
    """The rules of a process. Holds nothing of a request."""

    def __init__(self, rules: Mapping[str, Any]) -> None:
        """`rules`: for each flag a value that `parse_rule` reads; a flag without one is off."""
        self._rules: dict[Flag, Rule] = {flag: parse_rule(rules.get(flag, "off")) for flag in FLAGS}

    def arm(self, flag: Flag, *, tenant_id: str, session_id: str) -> bool:
        """Whether `flag` is on for a session: the same answer each time, in each process.

        A share that grows keeps the sessions it had. Flags are split apart from each other. A call without a session
        (`session_id` empty) goes by its tenant.
        """
        rule = self._rules[flag]
        if tenant_id in rule.tenants:
            return True
        if rule.percent in (0.0, 100.0):
            return rule.percent == 100.0
        place = xxhash.xxh64_intdigest(f"{flag}:{session_id or tenant_id}".encode("utf-8", "surrogatepass"))
        return place < rule.percent / 100 * _HASHES

    def arms(self, *, tenant_id: str, session_id: str) -> Arms:
        """All of them at once."""
        return Arms(**{flag: self.arm(flag, tenant_id=tenant_id, session_id=session_id) for flag in FLAGS})
