"""Chat templates in Ollama's words: the pieces say what the template says, or nothing is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from potstill.formats.ollama import CHATS, modelfile, pieces_of
from potstill.rendering import prompt_text
from potstill.types import Message

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}<|start|>{{ m.role }}<|head|>\n\n{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|head|>\n\n{% endif %}"
)
COUNTING = (
    "{% for m in messages %}{{ loop.index }}. {{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def tokenizer(student_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(student_folder)


def go(template: str, messages: list[Message]) -> str:
    """Go's template language, as far as our templates use it."""
    has_system = any(message.role == "system" for message in messages)
    text = re.sub(r"\{\{ if not \.System \}\}(.*?)\{\{ end \}\}", "" if has_system else r"\1", template, count=1, flags=re.DOTALL)
    head, _, rest = text.partition("{{ range .Messages }}")
    turn, _, tail = rest.rpartition("{{ end }}{{ end }}")
    cases = dict(re.findall(r'if eq \.Role "(\w+)" \}\}(.*?)(?=\{\{ else|\Z)', turn, flags=re.DOTALL))
    return head + "".join(cases[one.role].replace("{{ .Content }}", one.content) for one in messages) + tail


@pytest.mark.parametrize("template", [None, CHATML, LLAMA3])
def test_the_template_renders_chats_as_the_model_knows_them(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template or tokenizer.chat_template
    pieces = pieces_of(tokenizer)
    assert pieces is not None
    for chat in CHATS:
        assert pieces.rendered(chat) == prompt_text(tokenizer, chat)
        assert go(pieces.template(), chat) == prompt_text(tokenizer, chat)


@pytest.mark.parametrize("template", [COUNTING, NO_SYSTEM])
def test_a_template_that_is_more_than_pieces_is_not_written(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    assert pieces_of(tokenizer) is None
    text = modelfile(tokenizer, "m.gguf", 512)
    assert 'TEMPLATE """' not in text
    assert "write a TEMPLATE by hand" in text


def test_the_modelfile_names_the_file_the_stops_and_the_context(tokenizer: Any) -> None:
    lines = modelfile(tokenizer, "model-q8_0.gguf", 512).splitlines()
    assert lines[0] == "FROM ./model-q8_0.gguf"
    assert f"PARAMETER stop {tokenizer.eos_token}" in lines
    assert lines[-2:] == ["PARAMETER temperature 0", "PARAMETER num_ctx 512"]
