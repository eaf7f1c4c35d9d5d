"""What the user routes take, for the OpenAPI document only: they check by themselves (body class R)."""

from pydantic import BaseModel


class Register(BaseModel):
    """Body of POST `/v1/user/register`."""

    nickname: str
    email: str
    password: str


class Login(BaseModel):
    """Body of POST `/v1/user/login`."""

    email: str
    password: str


class TenantInfo(BaseModel):
    """Body of POST `/v1/user/set_tenant_info`; empty model names mean the server's defaults."""

    tenant_id: str
    llm_id: str | None
    embd_id: str | None
    asr_id: str | None
    img2txt_id: str | None
    rerank_id: str | None = None
    tts_id: str | None = None
    name: str | None = None
