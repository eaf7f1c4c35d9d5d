"""Counting tokens as cl100k does, offline.

The vocabulary lies in the package of LiteLLM, which is not imported for it: only its folder is looked up.
"""

import base64
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

_VOCABULARY = "litellm_core_utils/tokenizers/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
# Source: tiktoken 0.12, tiktoken_ext/openai_public.py, cl100k_base.
_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
    r"""\s+(?!\S)|\s"""
)
_RUN = 1_000
_LONG_RUN = re.compile(rf"\S{{{_RUN}}}|\s{{{_RUN}}}")


def count_tokens(text: str) -> int:
    """The number of cl100k tokens of `text`; within 1 in 1,000 where it has runs of 1,000 and more characters
    without a space, which are counted in slices: a single run takes quadratic time otherwise."""
    if not text:
        return 0
    encoding = _encoding()
    if len(text) > _RUN and _LONG_RUN.search(text):
        slices = [text[i : i + _RUN] for i in range(0, len(text), _RUN)]
        return sum(len(encoding.encode_ordinary(part)) for part in slices)
    return len(encoding.encode_ordinary(text))


def warm() -> None:
    """Load the vocabulary: about 0.2 s, once a process."""
    _encoding()


@cache
def _encoding() -> Any:
    # Imported late: the start of the server must not pay for it.
    import tiktoken

    package = importlib.util.find_spec("litellm")
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "The package litellm, which holds the vocabulary for counting tokens, is not installed."
        )
    ranks: dict[bytes, int] = {}
    for line in (Path(package.origin).parent / _VOCABULARY).read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return tiktoken.Encoding("cl100k_base", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
