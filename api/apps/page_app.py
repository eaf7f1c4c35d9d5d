"""`/`: what runs here, until the web app takes its place: readiness, datasets, how to call the server.

Rendered here, with nothing to load: no script, one style that the Content-Security-Policy names by its hash.
"""

import base64
import hashlib

from quart import Blueprint, Response, redirect, render_template_string, request
from werkzeug.wrappers import Response as AnyResponse

from api.apps.auth import WEB_DOOR, NotAuthenticated, authenticate, marked, set_cookie
from api.apps.context import services, web_state
from api.apps.openapi import describe
from api.db.services.records import DatasetRecord, Page
from rag.core.errors import StoreUnavailable

bp = Blueprint("page", __name__)
_SHOWN_DATASETS = 100

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
pre { background: #f4f4f4; padding: 1rem; overflow-x: auto; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .3rem .6rem .3rem 0; }
.state { padding: .1rem .5rem; border-radius: .3rem; background: #e7f3e7; } .wait { background: #fdf0d5; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd; } pre { background: #2a2a2a; }
.state { background: #244824; } .wait { background: #5a4510; } a { color: #8ab4f8; } }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Frame-Options": "DENY",
}
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parley</title><style>{{ style | safe }}</style></head>
<body>
<h1>Parley</h1>
<p>{% if ready %}<span class="state">ready</span>{% else %}<span class="state wait">starting</span>
still loading: {{ missing | join(", ") }}{% endif %}</p>
{% if note %}<p>{{ note }}</p>{% endif %}
{% if datasets is not none %}
<h2>Datasets</h2>
{% if datasets %}
<table><thead><tr><th>Name</th><th>Documents</th><th>Chunks</th><th>Id</th></tr></thead><tbody>
{% for dataset in datasets %}<tr><td>{{ dataset.name }}</td><td>{{ dataset.document_count }}</td>
<td>{{ dataset.chunk_count }}</td><td><code>{{ dataset.id }}</code></td></tr>
{% endfor %}</tbody></table>
{% if total > datasets | length %}<p>and {{ total - datasets | length }} more</p>{% endif %}
{% else %}<p>None yet. <code>parley ingest NAME FILE...</code> makes one.</p>{% endif %}
<h2>From Python</h2>
<pre>from pathlib import Path
from ragflow_sdk import RAGFlow

key = Path({{ key_path }}).read_text().strip()
rag = RAGFlow(api_key=key, base_url={{ url }})
dataset = rag.create_dataset(name="reports")
dataset.upload_documents([{"display_name": "report.pdf", "blob": Path("report.pdf").read_bytes()}])
documents = dataset.list_documents()
dataset.async_parse_documents([document.id for document in documents])
# wait until list_documents() shows run == "DONE", then:
for chunk in rag.retrieve(question="What was the revenue?", dataset_ids=[dataset.id]):
    print(chunk.similarity, chunk.content)</pre>
<p>All routes: <a href="/openapi.json">/openapi.json</a></p>
{% else %}
<p>Open the link that <code>parley serve</code> printed to sign in.</p>
{% endif %}
</body>
</html>
"""


@bp.get("/")
@marked("page")
@describe(tag="page")
async def start_page() -> AnyResponse | Response:
    """What runs here. `?token=` of the printed link signs the browser in."""
    token = request.args.get("token")
    if token is not None:
        return await _sign_in(token)
    return await _page()


async def _sign_in(token: str) -> AnyResponse | Response:
    if not web_state().link_opens(token):
        refusal = await _page("This sign-in link is not valid; use the one the running server printed.")
        refusal.status_code = 403
        return refusal
    users = services().users
    response = redirect("/", 303)
    set_cookie(response, await users.cookie_for(await users.ensure_local_user()))
    response.headers.update(_HEADERS)
    return response


async def _page(note: str = "") -> Response:
    state = web_state()
    datasets: list[DatasetRecord] | None = None
    total = 0
    try:
        principal = await authenticate(WEB_DOOR)
        datasets, total = await services().knowledgebases.list(principal, Page(size=_SHOWN_DATASETS))
    except NotAuthenticated:
        pass
    except StoreUnavailable as error:
        note = note or error.message
    settings = services().settings
    text = await render_template_string(
        _PAGE,
        style=_STYLE,
        ready=state.ready,
        missing=sorted(state.lacking),
        note=note,
        datasets=datasets,
        total=total,
        key_path=repr(str((settings.data_dir / "key").absolute())),
        url=repr(settings.server.public_url or f"{request.scheme}://{request.host}"),
    )
    return Response(text, headers=_HEADERS, content_type="text/html; charset=utf-8")
