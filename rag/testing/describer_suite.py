"""What every describer does: inherit `DescriberSuite` and give it a `describer` fixture."""

import inspect

import pytest

from rag.core.types import Picture
from rag.llm.base import Described, Describer

PICTURE = Picture(media_type="image/png", data=b"\x89PNG\r\n\x1a\n-a-picture")


async def described(describer: Describer, prompt: str = "") -> Described:
    result = describer.describe(PICTURE, prompt)
    found = await result if inspect.isawaitable(result) else result
    assert isinstance(found, Described)
    return found


class DescriberSuite:
    """The contract of `rag.llm.base.Describer`."""

    @pytest.mark.parametrize("prompt", ["", "What colour is it?"])
    async def test_it_says_something_and_counts(self, describer: Describer, prompt: str) -> None:
        found = await described(describer, prompt)
        assert found.text
        assert found.text == found.text.strip()
        assert found.usage.prompt_tokens > 0
        assert found.usage.completion_tokens > 0

    async def test_the_name_has_a_provider(self, describer: Describer) -> None:
        assert "@" in describer.name
