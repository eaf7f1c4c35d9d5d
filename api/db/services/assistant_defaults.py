"""What a chat assistant has that says nothing else (the wire contract's constants, by internal names)."""

from collections.abc import Mapping
from typing import Any, Final

SYSTEM: Final = (
    "You are an intelligent assistant. Please summarize the content of the knowledge base to answer the "
    "question. Please list the data in the knowledge base and answer in detail. When all knowledge base content "
    "is irrelevant to the question, your answer must include the sentence "
    '"The answer you are looking for is not found in the knowledge base!" '
    "Answers need to consider chat history.\n"
    "      Here is the knowledge base:\n"
    "      {knowledge}\n"
    "      The above is the knowledge base."
)
PROMPT: Final[Mapping[str, Any]] = {
    "system": SYSTEM,
    "prologue": "Hi! I'm your assistant. What can I do for you?",
    "parameters": [{"key": "knowledge", "optional": False}],
    "empty_response": "Sorry! No relevant content was found in the knowledge base!",
    "quote": True,
    "tts": False,
    "refine_multiturn": True,
}
LLM: Final[Mapping[str, Any]] = {
    "temperature": 0.1,
    "top_p": 0.3,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.7,
    "max_tokens": 512,
}
COLUMNS: Final[Mapping[str, Any]] = {
    "description": "A helpful Assistant",
    "icon": "",
    "language": "English",
    "prompt_type": "simple",
    "meta_data_filter": {},
    "similarity_threshold": 0.2,
    "vector_similarity_weight": 0.3,
    "top_n": 6,
    "top_k": 1024,
    "do_refer": "1",
    "rerank_id": "",
}
