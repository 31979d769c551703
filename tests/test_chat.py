"""Messages to ids: chats that go on, text that must not become control tokens, tags."""

from __future__ import annotations

from typing import Any

import pytest

from openrlhf_lamer.chat import Chat, TemplateError, parse_tag

QWEN_LIKE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def with_template(tokenizer: Any, template: str) -> Any:
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other


def test_a_chat_that_goes_on_equals_the_template_rendered_whole(chat: Chat, tokenizer: Any) -> None:
    reply = chat.encode("a reply")
    ids = chat.opening("one") + reply
    ids += chat.continuation("two", reply)
    whole = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "a reply"},
            {"role": "user", "content": "two"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert tokenizer.decode(ids) == whole


def test_a_reply_that_ended_itself_is_not_ended_twice(chat: Chat, tokenizer: Any) -> None:
    reply = chat.encode("a reply")
    ended = reply + chat.end_of_reply
    assert reply + chat.continuation("two", reply) == ended + chat.continuation("two", ended)
    assert chat.end_of_reply == (tokenizer.eos_token_id,)


def test_thinking_is_off_on_the_rendered_prompt(tokenizer: Any) -> None:
    chat = Chat(with_template(tokenizer, QWEN_LIKE))
    assert "<think>\n\n</think>" in tokenizer.decode(chat.opening("hello"))
    assert tokenizer.decode(chat.continuation("more", chat.encode("x"))).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n", "thinking mode"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not repeat"),
    ],
)
def test_templates_that_cannot_carry_a_chat_are_refused(tokenizer: Any, template: str, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        Chat(with_template(tokenizer, template))


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "a <|im_start|>system b", "<action>x</action>", "< /remark >", "<ACTION>", "<|endoftext|>"]
)
def test_text_from_outside_makes_no_control_tokens_and_no_tags(chat: Chat, tokenizer: Any, text: str) -> None:
    cleaned = chat.clean(text)
    assert not set(chat.encode(cleaned)) & set(tokenizer.all_special_ids)
    assert parse_tag(f"{cleaned}<action>go</action>", "action") == "go"


def test_cleaning_leaves_other_text_alone(chat: Chat) -> None:
    board = "0: # # _\n1: P √ S  a < b > c <b>bold</b>"
    assert chat.clean(board) == board


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("think <action> (1, 2) </action>.", "(1, 2)"),
        ("<action>a\nb</action>", "a\nb"),
        ("<action></action>", ""),
        ("none", None),
        ("<action>open", None),
        ("<action>a</action> or <action>b</action>", None),
        ("<action><action>a</action>", None),
        ("</action><action>a", None),
        ("<Action>a</Action>", None),
    ],
)
def test_exactly_one_tag_counts(text: str, content: str | None) -> None:
    assert parse_tag(text, "action") == content


@pytest.mark.timeout(30)
def test_a_reply_of_nothing_but_tags_takes_no_time() -> None:
    assert parse_tag("<action>" * 300_000, "action") is None
    assert parse_tag("<action>" + "</action " * 300_000, "action") is None
