"""What a model call costs, in US dollars.

Prices come from the settings, else `conf/prices.yaml`, else the map that LiteLLM brings along, which is read as a
file: importing LiteLLM takes 130 ms and more. Only what our providers are called there is kept.
"""

import importlib.util
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import structlog
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rag.core.errors import InvalidInput
from rag.core.resources import conf_path
from rag.core.settings import PriceSettings
from rag.core.types import TokenUsage

_MAP = "model_prices_and_context_window_backup.json"
_MODES = frozenset(("chat", "completion", "responses", "embedding", "rerank"))
_MILLION = 1_000_000
_FIELDS = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "reasoning": "output_cost_per_reasoning_token",
}
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """US dollars a token; `call` for each call. `above` has the rates of prompts of more tokens than its key, the
    largest first: they hold for the whole call."""

    input: float = 0.0
    output: float = 0.0
    cached: float = 0.0
    cache_write: float = 0.0
    reasoning: float = 0.0
    call: float = 0.0
    above: "tuple[tuple[int, Rate], ...]" = ()

    def cost(self, usage: TokenUsage) -> float:
        """What `usage` costs, once. Parts larger than their whole count as the whole."""
        for limit, rate in self.above:
            if usage.prompt_tokens > limit:
                return rate.cost(usage)
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        written = min(usage.cache_write_tokens, usage.prompt_tokens - cached)
        thought = min(usage.reasoning_tokens, usage.completion_tokens)
        return (
            (usage.prompt_tokens - cached - written) * self.input
            + cached * self.cached
            + written * self.cache_write
            + (usage.completion_tokens - thought) * self.output
            + thought * self.reasoning
            + self.call
        )


class PricesFile(BaseModel):
    """`conf/prices.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    providers: dict[str, list[str]]
    free: list[str]
    usd_per_million: dict[str, dict[str, Annotated[float, Field(ge=0, le=1e6)]]]


class Prices:
    """The prices of a process. Threads may share it; what it knows never changes once loaded."""

    def __init__(self, settings: PriceSettings | None = None, *, map_path: Path | None = None) -> None:
        """`map_path` stands in for the map of the installed package.

        Raises:
            InvalidInput: a price of the settings has a name that says nothing.
        """
        self._set = _million_rates((settings or PriceSettings()).usd_per_million, where="PARLEY_PRICES")
        self._map_path = map_path
        self._lock = threading.Lock()
        self._loaded = False
        self._providers: dict[str, list[str]] = {}
        self._free: frozenset[str] = frozenset()
        self._known: dict[str, Rate] = {}

    @property
    def loaded(self) -> bool:
        """Whether `cost` answers without reading files."""
        return self._loaded

    def load(self) -> None:
        """Read the files, once. Blocking: call it in a thread.

        Raises:
            InvalidInput: `conf/prices.yaml` does not fit its form.
        """
        with self._lock:
            if self._loaded:
                return
            file = read_prices_file()
            self._providers = {_plain(name): names for name, names in file.providers.items()}
            self._free = frozenset(_plain(name) for name in file.free)
            self._set = _million_rates(file.usd_per_million, where="conf/prices.yaml") | self._set
            wanted = {name for names in file.providers.values() for name in names}
            self._known = dict(_mapped(self._map_path or _package_map(), wanted))
            self._loaded = True

    def cost(self, model: str, usage: TokenUsage) -> float | None:
        """What a call of `<model>@<provider>` that took `usage` costs; None where no price is known.

        Raises:
            InvalidInput: as `load`, which is called if nobody has.
        """
        rate = self.rate(model)
        return None if rate is None else rate.cost(usage)

    def is_known(self, provider: str) -> bool:
        """Whether `conf/prices.yaml` tells how the map calls `provider`, or that its models are free."""
        self.load()
        return _plain(provider) in self._providers or _plain(provider) in self._free

    def is_free(self, model: str) -> bool:
        """Whether calls of `<model>@<provider>` cost nothing, as far as is known."""
        rate = self.rate(model)
        return rate is not None and rate == Rate()

    def rate(self, model: str) -> Rate | None:
        """The rate of `<model>@<provider>`: a name that was set wins over `*@<provider>`, and both over the map."""
        self.load()
        name, _, provider = model.rpartition("@")
        own = self._set.get((_plain(provider), name)) or self._set.get((_plain(provider), "*"))
        if own is not None:
            return own
        if _plain(provider) in self._free:
            return Rate()
        for prefix in self._providers.get(_plain(provider), ()):
            found = self._known.get(f"{prefix}/{name}")
            if found is not None:
                return found
        return None


def read_prices_file() -> PricesFile:
    """`conf/prices.yaml`.

    Raises:
        InvalidInput: the file does not fit its form.
    """
    try:
        return PricesFile.model_validate(yaml.safe_load(conf_path("prices.yaml").read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise InvalidInput(f"conf/prices.yaml cannot be used: {error}") from error


def _package_map() -> Path | None:
    """The map in the folder of the installed package, whose code is not run; None without the package."""
    spec = importlib.util.find_spec("litellm")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((path for path in (Path(folder) / _MAP for folder in folders) if path.exists()), None)


def _mapped(path: Path | None, wanted: set[str]) -> Iterator[tuple[str, Rate]]:
    """`<provider>/<model>` as the map calls them, with their rates."""
    if path is None or not path.exists():
        log.warning("price_map_missing")
        return
    for key, entry in orjson.loads(path.read_bytes()).items():
        provider = entry.get("litellm_provider")
        if provider in wanted and entry.get("mode") in _MODES:
            rate = _rate_of(entry)
            if rate is not None:
                yield key if key.startswith(f"{provider}/") else f"{provider}/{key}", rate


def _rate_of(entry: Mapping[str, Any]) -> Rate | None:
    """None where the entry names no price."""
    call = float(entry.get("input_cost_per_query") or 0.0) if entry["mode"] == "rerank" else 0.0
    if entry.get("input_cost_per_token") is None and not call:
        return None
    plain = _tokens(entry, "")
    limits = sorted((int(match[1]) for match in map(_TIER.fullmatch, entry) if match), reverse=True)
    above = tuple((limit * 1000, _rate(plain | _tokens(entry, f"_above_{limit}k_tokens"), 0.0)) for limit in limits)
    return _rate(plain, call, above)


def _tokens(entry: Mapping[str, Any], suffix: str) -> dict[str, float]:
    """The prices that the entry names; those of caches and of thinking only if they are not nothing, for the map
    writes 0 where a provider does not bill them apart."""
    named = {field: entry.get(key + suffix) for field, key in _FIELDS.items()}
    return {field: float(value) for field, value in named.items() if value}


def _rate(prices: Mapping[str, float], call: float = 0.0, above: tuple[tuple[int, Rate], ...] = ()) -> Rate:
    """A rate whose missing parts cost what the whole costs."""
    whole, said = prices.get("input", 0.0), prices.get("output", 0.0)
    return Rate(
        input=whole,
        output=said,
        cached=prices.get("cached", whole),
        cache_write=prices.get("cache_write", whole),
        reasoning=prices.get("reasoning", said),
        call=call,
        above=above,
    )


def _million_rates(given: Mapping[str, Mapping[str, float]], *, where: str) -> dict[tuple[str, str], Rate]:
    """Rates by (provider, model)."""
    found: dict[tuple[str, str], Rate] = {}
    for full, prices in given.items():
        name, _, provider = full.rpartition("@")
        unknown = prices.keys() - _FIELDS.keys()
        if not name or not provider or unknown:
            raise InvalidInput(
                f"{where}: {full!r} cannot be used. Write `<model>@<provider>` or `*@<provider>` with "
                f"{', '.join(_FIELDS)}."
            )
        found[_plain(provider), name] = _rate({field: price / _MILLION for field, price in prices.items()})
    return found


def _plain(provider: str) -> str:
    return "".join(letter for letter in provider.casefold() if letter.isalnum())
