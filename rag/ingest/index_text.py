"""What of a chunk is analysed and embedded."""

from collections.abc import Sequence

_MAX_LEAD_CHARS = 300


def index_text(document_name: str, heading_path: Sequence[str], content: str) -> str:
    """The chunk's content under the name of its document and the headings above it.

    The name goes without its extension, with underscores as spaces. Name and headings together are cut at 300
    characters, so that a long path never crowds out the content.
    """
    stem, dot, extension = document_name.rpartition(".")
    name = stem if dot and stem and len(extension) <= 5 else document_name
    lead = "\n".join(part for part in (name.replace("_", " "), *heading_path) if part.strip())
    return f"{lead[:_MAX_LEAD_CHARS]}\n{content}" if lead else content
