"""Every blueprint of the web process. A new file of routes is added here, and nowhere else."""

from quart import Blueprint

from api.apps import conversation_app, dialog_app, llm_app, openai_app, page_app, speech_app, system_app, user_app
from api.apps.sdk import (
    ask,
    bots,
    chat,
    chats_openai,
    chunk,
    completion,
    dataset,
    doc,
    messages,
    progress,
    retrieval,
    session,
    stats,
)

BLUEPRINTS: tuple[Blueprint, ...] = (
    system_app.bp,
    page_app.bp,
    user_app.bp,
    llm_app.bp,
    dialog_app.bp,
    conversation_app.bp,
    speech_app.bp,
    dataset.bp,
    doc.bp,
    chunk.bp,
    retrieval.bp,
    progress.bp,
    chat.bp,
    session.bp,
    completion.bp,
    messages.bp,
    ask.bp,
    bots.bp,
    chats_openai.bp,
    openai_app.bp,
    stats.bp,
)
