"""What the model routes take, for the OpenAPI document only: they check by themselves (body class R)."""

from pydantic import BaseModel


class SetKey(BaseModel):
    """Body of POST `/v1/llm/set_api_key`; `llm_name` and `model_type` say which model the key is tried with."""

    llm_factory: str
    api_key: str
    base_url: str = ""
    model_type: str = ""
    llm_name: str = ""


class AddModel(BaseModel):
    """Body of POST `/v1/llm/add_llm`. Without key and address those of the provider count. Bedrock and Azure take
    their further parts as `bedrock_ak`, `bedrock_sk`, `bedrock_region` and `api_version`."""

    llm_factory: str
    model_type: str
    llm_name: str
    api_base: str = ""
    api_key: str = ""
    max_tokens: int = 0


class NamedModel(BaseModel):
    """Body of POST `/v1/llm/delete_llm` and `/v1/llm/enable_llm`; `status` is for the latter, "0" or "1"."""

    llm_factory: str
    llm_name: str
    status: str = "1"


class NamedFactory(BaseModel):
    """Body of POST `/v1/llm/delete_factory`."""

    llm_factory: str


class Mine(BaseModel):
    """Query of GET `/v1/llm/my_llms`; `true` adds `api_base` and `max_tokens`."""

    include_details: str = ""


class ListModels(BaseModel):
    """Query of GET `/v1/llm/list`: only models whose type holds this text."""

    model_type: str = ""
