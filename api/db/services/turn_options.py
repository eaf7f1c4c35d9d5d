"""What a call set, as its question's row keeps it: a turn that is answered anew is asked with the same."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from api.db.services.dialog_brief import AskOptions
from api.db.tables import Message
from rag.llm.base import Sampling

MOST_TOKENS = 2**31 - 1
"""More than any model writes."""
_FLAGS = ("quote", "own_sampling")
_NAMES = ("document_ids", "dataset_ids")


def options_to_json(options: AskOptions) -> dict[str, Any] | None:
    """What differs from a call that sets nothing; None where nothing does. The reply's form is not kept: it is for
    clients that keep their own turns."""
    plain = AskOptions()
    values: dict[str, Any] = {}
    for name in _FLAGS:
        if getattr(options, name) != getattr(plain, name):
            values[name] = bool(getattr(options, name))
    for name in _NAMES:
        if getattr(options, name):
            values[name] = [_text(one) for one in getattr(options, name)]
    if options.model:
        values["model"] = _text(options.model)
    if options.variables:
        values["variables"] = {_text(key): _text(value) for key, value in options.variables.items()}
    if options.sampling is not None:
        values["sampling"] = _kept_sampling(options.sampling)
    return values or None


def check_options(options: AskOptions) -> None:
    """Return if the options can be kept.

    Raises:
        InvalidInput: a value cannot.
    """
    Message.asked_with.db_value(options_to_json(options))


def options_of_json(stored: Any) -> AskOptions:
    """The options of a row. What an older or newer version kept, and this one does not know, is left out."""
    values = stored if isinstance(stored, Mapping) else {}
    known: dict[str, Any] = {name: bool(values[name]) for name in _FLAGS if name in values}
    known |= {name: tuple(str(one) for one in values[name]) for name in _NAMES if isinstance(values.get(name), list)}
    if isinstance(values.get("variables"), Mapping):
        known["variables"] = dict(values["variables"])
    if isinstance(values.get("sampling"), Mapping):
        known["sampling"] = _sampling(values["sampling"])
    return AskOptions(model=str(values.get("model") or ""), **known)


def _kept_sampling(sampling: Sampling) -> dict[str, Any]:
    values = {key: value for key, value in asdict(sampling).items() if value not in (None, ())}
    if sampling.max_tokens is not None:
        values["max_tokens"] = min(sampling.max_tokens, MOST_TOKENS)  # A row holds no whole number of any size.
    if sampling.stop:
        values["stop"] = [_text(one) for one in sampling.stop]
    return values


def _sampling(stored: Mapping[str, Any]) -> Sampling:
    known = {each.name: stored[each.name] for each in fields(Sampling) if each.name in stored}
    if "stop" in known:
        known["stop"] = tuple(str(one) for one in known["stop"])
    return Sampling(**known)


def _text(value: Any) -> str:
    """As the prompt has it; half a surrogate pair is no text."""
    return str(value).encode("utf-8", "replace").decode()
