"""Text that is cleaned becomes neither control tokens nor our tags, whatever the tokenizer and the disguise."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import control, tokens_with_a_meaning

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cleaning import Breaker
from openrlhf_lamer.memory import shorten, with_outcomes
from openrlhf_lamer.records import Phase, Turn

QWEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
LLAMA_3 = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA_2 = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content }}<｜end▁of▁sentence｜>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)

SINGLE = (
    "{% for m in messages %}⟦{{ m.role }}\n{{ m.content }}⟧\n{% endfor %}"
    "{% if add_generation_prompt %}⟦assistant\n{% endif %}"
)


def made(
    base: Any, template: str, special: list[str], marks: list[str], normalizer: Any = None, folded: bool = False
) -> Any:
    """The tests' tokenizer with other tokens, template and normaliser; `folded` tokens are sought in folded text."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    content = json.loads(base.backend_tokenizer.to_str())
    content["added_tokens"] = []
    inner = Tokenizer.from_str(json.dumps(content))
    if normalizer is not None:
        inner.normalizer = normalizer
    inner.add_special_tokens([AddedToken(token, normalized=folded, special=True) for token in special])
    inner.add_tokens([AddedToken(token, normalized=folded, special=False) for token in marks])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=special[-1], chat_template=template)


def tokenizers_by_name(base: Any) -> dict[str, Any]:
    from tokenizers import normalizers as n

    folding = n.Sequence([n.NFKC(), n.Lowercase()])
    stripping = n.Sequence([n.BertNormalizer(clean_text=True, strip_accents=True, lowercase=True), n.NFKC()])
    chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    return {
        "tests": base,
        "qwen": made(base, QWEN, chatml, ["<think>", "</think>", "<tool_call>", "<|fim_prefix|>"], n.NFC()),
        "llama-3": made(
            base,
            LLAMA_3,
            ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
            + [f"<|reserved_special_token_{i}|>" for i in range(40)],
            [],
        ),
        "llama-2": made(base, LLAMA_2, ["<unk>", "<s>", "[INST]", "[/INST]", "</s>"], [], n.Replace("\u00a0", "▁")),
        "deepseek": made(
            base,
            DEEPSEEK,
            ["<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"],
            ["<think>", "</think>"],
        ),
        "single": made(base, SINGLE, ["⌘", "⟦", "⟧"], []),
        "folding": made(base, QWEN, chatml, ["<think>", "</think>"], folding, folded=True),
        "stripping": made(base, QWEN, chatml, ["<think>", "</think>"], stripping, folded=True),
    }


NAMES = ("tests", "qwen", "llama-3", "llama-2", "deepseek", "single", "folding", "stripping")


@pytest.fixture(scope="module")
def chats(tokenizer: Any) -> dict[str, Chat]:
    found = {name: Chat(each) for name, each in tokenizers_by_name(tokenizer).items()}
    assert tuple(found) == NAMES
    return found


def disguises(word: str) -> list[str]:
    """Other ways to write `word` that some normaliser or reader takes for the same."""
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in word)
    return [
        word.upper(),
        wide,
        "\u200b".join(word),
        word[:2] + "\u0301" + word[2:],
        word[0] + "\x00" + word[1:],
        word[0] + "\u00ad" + wide[1:],
        word[0] + word,  # its beginning twice
        word[: len(word) // 2] + word + word[len(word) // 2 :],  # one inside another
        word.replace("<", "< "),
        " ".join(word),
        word[:-1] + " x='1'" + word[-1],
    ]


TAGS = ["<action>", "</action>", "<remark>", "</remark>", "< action >", "<action\n>", "<Action id=1>", "</ remark>"]
PLAIN = [
    "go",
    " ",
    "\n",
    "<",
    "</",
    "|",
    "[",
    ">",
    "√ # _",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "é",
    "한국",
    "\x00reply\x00",
    "\ud800",
]


def hostile_texts(chat: Chat) -> st.SearchStrategy[str]:
    """Texts put together from tokens and tags, whole, disguised and cut anywhere, and from other odd things."""
    words = sorted({*tokens_with_a_meaning(chat).values(), *TAGS})
    whole = st.sampled_from([*words, *(other for word in words for other in disguises(word)), *PLAIN])
    cut = st.builds(lambda text, at, head: text[:at] if head else text[at:], whole, st.integers(0, 12), st.booleans())
    return st.lists(st.one_of(whole, cut, st.text(max_size=3)), max_size=6).map("".join)


def holds_a_tag(text: str) -> bool:
    """Whether a reader who ignores case, accents, width and invisible characters sees one of our tags."""
    seen = unicodedata.normalize("NFKD", text)
    seen = "".join(char for char in seen if unicodedata.category(char) not in ("Cf", "Cc", "Mn") or char in "\n\t")
    return re.search(r"</?(action|remark)\b", seen, re.IGNORECASE) is not None


@pytest.mark.parametrize("name", NAMES)
def test_cleaned_pieces_side_by_side_add_no_token_and_no_tag(chats: dict[str, Chat], name: str) -> None:
    chat = chats[name]
    harmless = control(chat, chat.opening("xy")), control(chat, chat.continuation("xy", chat.encode("a reply")))
    texts = hostile_texts(chat)

    @settings(deadline=None, max_examples=200)
    @given(texts, texts)
    def holds(observation: str, remark: str) -> None:
        pieces = chat.clean(observation), chat.clean(remark)
        for between in ("", "\n"):
            text = between.join(pieces)
            assert control(chat, chat.opening(text)) == harmless[0]
            assert control(chat, chat.continuation(text, chat.encode("a reply"))) == harmless[1]
            assert not holds_a_tag(text)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_no_cut_makes_two_harmless_pieces_of_a_token_or_a_tag(chats: dict[str, Chat], name: str) -> None:
    chat = chats[name]
    harmless = control(chat, chat.opening("xy"))
    for word in (*tokens_with_a_meaning(chat).values(), "<action>", "</action>", "<Remark >", "</remark>"):
        for cut in range(1, len(word)):
            text = chat.clean(f"a {word[:cut]}") + chat.clean(f"{word[cut:]} b")
            assert control(chat, chat.opening(text)) == harmless
            assert not holds_a_tag(text)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_that_nobody_cleaned_makes_no_control_tokens(chats: dict[str, Chat], name: str) -> None:
    """A message of an agent's own template, which may contain marks such as <think> on purpose."""
    chat = chats[name]
    special = {str(token) for token in chat.tokenizer.added_tokens_decoder.values() if token.special}

    def only_special(ids: tuple[int, ...]) -> list[str]:
        return [token for token in control(chat, ids) if token in special]

    harmless = only_special(chat.opening("x")), only_special(chat.continuation("x", ()))

    @settings(deadline=None, max_examples=100)
    @given(hostile_texts(chat))
    def holds(text: str) -> None:
        assert (only_special(chat.opening(text)), only_special(chat.continuation(text, ()))) == harmless

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_cleaning_twice_is_cleaning_once(chats: dict[str, Chat], name: str) -> None:
    chat = chats[name]

    @settings(deadline=None, max_examples=100)
    @given(hostile_texts(chat))
    def holds(text: str) -> None:
        cleaned = chat.clean(text)
        assert chat.clean(cleaned) == cleaned
        cleaned.encode()

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_leaves_clean_text_clean(chats: dict[str, Chat], name: str) -> None:
    chat = chats[name]
    harmless = control(chat, chat.opening("xy"))

    @settings(deadline=None, max_examples=100)
    @given(hostile_texts(chat), st.integers(1, 20), hostile_texts(chat))
    def holds(text: str, limit: int, after: str) -> None:
        cut = shorten(chat.clean(text), limit)
        assert len(cut) <= limit
        assert chat.clean(cut) == cut
        for between in ("", "\n"):
            assert control(chat, chat.opening(cut + between + chat.clean(after))) == harmless
            assert not holds_a_tag(cut + between + chat.clean(after))

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_what_came_of_a_turn_makes_no_token_and_no_tag(chats: dict[str, Chat], name: str) -> None:
    """Whatever parts of observations are left out, and wherever they are cut."""
    chat = chats[name]
    harmless = control(chat, chat.opening("xy"))
    pages = st.lists(hostile_texts(chat), min_size=1, max_size=4).map(" [SEP] ".join)

    @settings(deadline=None, max_examples=100)
    @given(st.tuples(pages, pages, pages), st.integers(1, 40), st.sampled_from([None, " [SEP] ", "\n", " "]))
    def holds(seen: tuple[str, ...], limit: int, separator: str | None) -> None:
        turns = [
            Turn(Phase.PLAY, 0, i, (1,), (2,), None, "", "go", True, 0.0, "", chat.clean(text))
            for i, text in enumerate(seen)
        ]
        text = "".join(f"{turn.did} -> {outcome}\n" for turn, outcome in with_outcomes(turns, 9, limit, separator))
        assert control(chat, chat.opening(text)) == harmless
        assert not holds_a_tag(text)

    holds()


@pytest.mark.parametrize("name", NAMES)
def test_every_token_would_be_one_if_it_were_not_cleaned(chats: dict[str, Chat], name: str) -> None:
    """The other tests can fail: these texts do make control tokens, and cleaned ones do not."""
    chat = chats[name]
    for token in tokens_with_a_meaning(chat).values():
        assert token in control(chat, chat.encode(f"a{token}b"))
        assert control(chat, chat.encode(chat.clean(f"a{token}b"))) == []
    if name in ("folding", "stripping"):
        assert "<|im_end|>" in control(chat, chat.encode("＜|ＩＭ_end|>"))
    if name == "stripping":
        assert "<|im_end|>" in control(chat, chat.encode("<|i\u200bm_\u0301end|>"))


@pytest.mark.parametrize(
    "text",
    [
        "0: # # _\n1: P √ S  a < b > c <b>bold</b>",
        "click[< Prev] or click[Next >]",
        "Señor Ångström ﬁnds 한국어, ½ and ²",
        "a</b> <actor> in <re>",
        "(1, 2); {{ 7 * 7 }} {% if %} {# #}",
    ],
)
def test_other_text_is_left_alone(chats: dict[str, Chat], text: str) -> None:
    for chat in chats.values():
        assert chat.clean(text) == text


def test_a_breaker_of_overlapping_words_leaves_none() -> None:
    breaks = Breaker(["aba", "ab"])
    for letters in itertools.product("ab", repeat=6):
        broken = breaks("".join(letters))
        assert "ab" not in broken
        assert broken.replace(" ", "") == "".join(letters)
    assert Breaker([])("abc") == "abc"


def test_a_word_of_one_character_becomes_a_space() -> None:
    breaks = Breaker(["§", "a b", "｜"])
    assert breaks("x§y § z") == "x y   z"
    assert breaks("1 | 2 ｜ 3") == "1   2   3"  # the token's normalised form is a token too
    assert breaks("a§b") == "a  b"  # the space in its place completes no other word
    assert breaks("a§") + breaks("b") == "a  b"
    assert Breaker(["é"])("été, e") == " t , e"
