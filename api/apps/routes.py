"""Every blueprint of the web process. A new file of routes is added here, and nowhere else."""

from quart import Blueprint

from api.apps import page_app, system_app, user_app
from api.apps.sdk import chunk, dataset, doc, retrieval

BLUEPRINTS: tuple[Blueprint, ...] = (
    system_app.bp,
    page_app.bp,
    user_app.bp,
    dataset.bp,
    doc.bp,
    chunk.bp,
    retrieval.bp,
)
