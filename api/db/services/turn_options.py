"""What a call set, as its question's row keeps it: a turn that is answered anew is asked with the same."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from api.db.services.dialog_brief import AskOptions
from rag.llm.base import Sampling

_TEXTS = ("document_ids", "dataset_ids")


def options_to_json(options: AskOptions) -> dict[str, Any] | None:
    """What differs from a call that sets nothing; None where nothing does."""
    plain = AskOptions()
    values: dict[str, Any] = {
        each.name: getattr(options, each.name)
        for each in fields(AskOptions)
        if getattr(options, each.name) != getattr(plain, each.name)
    }
    if options.sampling is not None:
        values["sampling"] = {key: value for key, value in asdict(options.sampling).items() if value not in (None, ())}
    if "variables" in values:
        values["variables"] = dict(options.variables)
    return values or None


def options_of_json(stored: Any) -> AskOptions:
    """The options of a row. What an older or newer version kept, and this one does not know, is left out."""
    values = dict(stored) if isinstance(stored, Mapping) else {}
    known: dict[str, Any] = {each.name: values[each.name] for each in fields(AskOptions) if each.name in values}
    for name in _TEXTS:
        if name in known:
            known[name] = tuple(str(one) for one in known[name])
    if isinstance(known.get("sampling"), Mapping):
        known["sampling"] = _sampling(known["sampling"])
    return AskOptions(**known)


def _sampling(stored: Mapping[str, Any]) -> Sampling:
    known = {each.name: stored[each.name] for each in fields(Sampling) if each.name in stored}
    if "stop" in known:
        known["stop"] = tuple(str(one) for one in known["stop"])
    return Sampling(**known)
