import pytest

from rag.llm.token_estimate import estimate_tokens

# Counted with OpenAI's o200k_base vocabulary.
COUNTED = [
    ("The quick brown fox jumps over the lazy dog.", 10),
    ("Purchases of property, plant and equipment (PP&E) | (1,577) | (1,373) | (1,420)", 30),
    ("Internationalization notwithstanding, the counterrevolutionaries disagreed.", 10),
    ("数据挖掘是从大量数据中提取信息的过程。", 16),
    ("", 0),
]


@pytest.mark.parametrize(("text", "counted"), COUNTED)
def test_the_estimate_is_not_too_low(text: str, counted: int) -> None:
    assert estimate_tokens(text) >= 0.9 * counted
    assert estimate_tokens(text) <= 2 * counted
