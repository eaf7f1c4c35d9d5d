import pytest

from rag.nlp.language import is_foreign


@pytest.mark.parametrize(
    "text",
    [
        "公司的总部位于北京。",
        "Компания была основана в 1998 году в Москве.",
        "Die Firma wurde im Jahr 1998 gegründet und beschäftigt heute dreihundert Leute.",
        "La empresa fue fundada en 1998 y emplea hoy cerca de trescientas personas.",
    ],
)
def test_prose_of_another_language(text: str) -> None:
    assert is_foreign(text)


@pytest.mark.parametrize(
    "text",
    ["", "1932", "Cash was 42 billion.", "The company was founded in 1998 and has its office in Geneva.", "Total 5 6 7"]
    + ["| Ertrag | Aufwand |\n| --- | --- |\n| eins | zwei drei vier fuenf |"],
)
def test_english_short_texts_and_tables(text: str) -> None:
    assert not is_foreign(text)
