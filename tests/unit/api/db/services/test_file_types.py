import pytest

from api.db.services.file_types import kind_of, method_at_upload, method_is_fixed
from rag.core.errors import Unsupported


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.pdf", "pdf"), ("A.PDF", "pdf"), ("a.docx", "doc"), ("a.Md", "doc"), ("a.epub", "doc"), ("a.mdx", "doc")]
    + [("a.markdown", "doc"), ("x.y.csv", "doc"), ("a.mp3", "aural")],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("name", ["a.exe", "a.zip", "a", "pdf", ".pdf", "a.", "a.pdf.exe", "a.jpg", "a.mp4", "a.yaml"])
def test_refused(name: str) -> None:
    with pytest.raises(Unsupported, match="This type of file has not been supported yet!"):
        kind_of(name)


@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("a.pptx", "doc", "presentation"),
        ("a.PPTX", "doc", "qa"),
        ("a.pages", "doc", "presentation"),
        ("a.eml", "doc", "email"),
        ("a.msg", "doc", "email"),
        ("a.EML", "doc", "qa"),
        ("a.mp3", "aural", "audio"),
        ("a.jpg", "visual", "picture"),
        ("a.pdf", "pdf", "qa"),
    ],
)
def test_methods_at_upload(name: str, kind: str, method: str) -> None:
    assert method_at_upload(name, kind, "qa") == method


def test_slides_and_pictures_keep_their_method() -> None:
    assert method_is_fixed("a.pptx", "doc")
    assert method_is_fixed("a.jpg", "visual")
    assert not method_is_fixed("a.pdf", "pdf")
