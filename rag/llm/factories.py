"""How each kind of model is made from a provider's row: explicit tables, nothing is looked for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rag.llm.base import ChatModel, ModelInfo
from rag.llm.deadlines import Deadlines
from rag.llm.endpoint import Endpoint
from rag.llm.models_file import Kind
from rag.llm.provider_table import Provider
from rag.llm.upstream import UpstreamPool

if TYPE_CHECKING:
    from rag.llm.upstream_call import UpstreamCall


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What factories build on: shared by all models of a process."""

    pool: UpstreamPool
    deadlines: Deadlines


def _lane(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    # Imported here because aiohttp costs 15 MB, which a process without a provider does not pay.
    from rag.llm.openai_lane import OpenAiLane

    return OpenAiLane(info, endpoint, pool=parts.pool, deadlines=parts.deadlines)


def _responses(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    from rag.llm.responses_lane import ResponsesLane

    return ResponsesLane(info, endpoint, pool=parts.pool, deadlines=parts.deadlines)


def _litellm(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    from rag.llm.chat_model import LiteLLMBase

    return LiteLLMBase(info, endpoint, deadlines=parts.deadlines)


def _cohere(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    from rag.llm.cohere_lane import CohereLane

    return CohereLane(info, endpoint, pool=parts.pool, deadlines=parts.deadlines)


def _interactions(info: ModelInfo, endpoint: Endpoint, parts: Parts) -> ChatModel:
    from rag.llm.interactions_lane import InteractionsLane

    return InteractionsLane(info, endpoint, pool=parts.pool, deadlines=parts.deadlines)


CHAT_FACTORIES: Final[dict[str, Callable[[ModelInfo, Endpoint, Parts], ChatModel]]] = {
    "lane": _lane,
    "responses": _responses,
    "cohere": _cohere,
    "interactions": _interactions,
    "litellm": _litellm,
}
"""By the transport of a provider's chat."""


def info_of(model: str, provider: Provider) -> ModelInfo:
    """What is known of a chat model."""
    entry = provider.entry_of(model)
    return ModelInfo(
        name=f"{model}@{provider.name}",
        context_tokens=entry.context_tokens,
        max_output_tokens=entry.max_output_tokens,
        capabilities=entry.capabilities(model, provider.entry.strategy),
    )


def make_chat(model: str, provider: Provider, parts: Parts) -> ChatModel:
    transport = provider.entry.chat_transport or provider.entry.transport
    by_litellm = transport == "litellm"
    endpoint = _litellm_endpoint(model, provider, "chat") if by_litellm else provider.endpoint_of(model)
    return CHAT_FACTORIES[transport](info_of(model, provider), endpoint, parts)


def _embedder(model: str, provider: Provider, parts: Parts) -> Any:
    from rag.llm.embedding import CompatibleEmbedding, EmbeddingWire, LiteLLMEmbedding, ProviderEmbedder

    name, entry = f"{model}@{provider.name}", provider.entry_of(model, "embedding")
    wire: EmbeddingWire
    if _by_litellm(provider):
        endpoint = _litellm_endpoint(model, provider, "embedding")
        wire = LiteLLMEmbedding(name, endpoint, timeout_s=parts.deadlines.first_token_s)
    else:
        wire = CompatibleEmbedding(_call(model, provider, parts))
    listed = entry.kind == "embedding"
    context = entry.context_tokens if listed else 0
    return ProviderEmbedder(name, wire, dim=entry.dim if listed else 0, context_tokens=context)


def _reranker(model: str, provider: Provider, parts: Parts) -> Any:
    from rag.llm.rerank import CompatibleRerank, LiteLLMRerank, ProviderReranker, RerankWire

    name, entry = f"{model}@{provider.name}", provider.entry_of(model, "rerank")
    wire: RerankWire
    if _by_litellm(provider):
        endpoint = _litellm_endpoint(model, provider, "rerank")
        wire = LiteLLMRerank(name, endpoint, timeout_s=parts.deadlines.first_token_s)
    else:
        wire = CompatibleRerank(_call(model, provider, parts))
    return ProviderReranker(name, wire, context_tokens=entry.context_tokens if entry.kind == "rerank" else 0)


def _describer(model: str, provider: Provider, parts: Parts) -> Any:
    from rag.llm.vision import ChatDescriber

    chat = make_chat(model, provider, parts)
    if not chat.info.capabilities.vision:
        # The tenant or the operator said that it describes pictures: its name need not tell.
        chat.info = replace(chat.info, capabilities=replace(chat.info.capabilities, vision=True))
    return ChatDescriber(chat)


def _transcriber(model: str, provider: Provider, parts: Parts) -> Any:
    from rag.llm.speech import CompatibleTranscriber

    return CompatibleTranscriber(_call(model, provider, parts, whole=True))


def _speaker(model: str, provider: Provider, parts: Parts) -> Any:
    from rag.llm.speech import CompatibleSpeaker

    return CompatibleSpeaker(_call(model, provider, parts), voice=provider.entry_of(model, "tts").voice or "alloy")


FACTORIES: Final[Mapping[Kind, Callable[[str, Provider, Parts], Any]]] = {
    "chat": make_chat,
    "embedding": _embedder,
    "rerank": _reranker,
    "image2text": _describer,
    "speech2text": _transcriber,
    "tts": _speaker,
}
"""By the kind of model: (model, its provider, parts) to the model."""


def _by_litellm(provider: Provider) -> bool:
    return provider.entry.transport == "litellm"


def _call(model: str, provider: Provider, parts: Parts, *, whole: bool = False) -> "UpstreamCall":
    from rag.llm.upstream_call import UpstreamCall

    deadlines = parts.deadlines
    return UpstreamCall(
        f"{model}@{provider.name}",
        provider.endpoint_of(model),
        pool=parts.pool,
        timeout_s=deadlines.answer_s if whole else deadlines.first_token_s,
        answer_s=deadlines.answer_s,
    )


def _litellm_endpoint(model: str, provider: Provider, kind: Kind) -> Endpoint:
    """The endpoint as LiteLLM's adapter wants it: no address where it is the usual one, which the adapter knows, and
    for some providers the address of the operation instead of its base."""
    entry, endpoint = provider.entry, provider.endpoint_of(model)
    prefix = endpoint.litellm_prefix if kind in ("chat", "image2text") else entry.litellm_embed_prefix
    base = endpoint.base_url
    if base == entry.default_base_url:
        base = ""
    return replace(
        endpoint,
        base_url=base + entry.litellm_paths.get(kind, "") if base else "",
        litellm_prefix=prefix or endpoint.litellm_prefix,
    )
