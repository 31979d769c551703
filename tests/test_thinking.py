"""Models that think: what templates allow, where an answer begins, and what becomes of thoughts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from thinking_model import (
    CLOSED,
    KEEPING,
    KEEPING_OPENED,
    OPENED,
    PLAIN,
    SILENT,
    SWITCHED,
    Marks,
    Thinker,
    thinking,
    thought,
)

from openrlhf_lamer import metrics
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat, ThinkingError, parse_tag
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.memory import recall
from openrlhf_lamer.policies import Generation, Policy, Request
from openrlhf_lamer.records import Phase, Task, Trial
from openrlhf_lamer.rows import trial_rows
from openrlhf_lamer.text_chat import END, TextChat, messages
from openrlhf_lamer.thinking import ends_inside, mark_ids, written
from openrlhf_lamer.trial import run_trial
from openrlhf_lamer.vocabulary import ContextPolicy

MARKS: tuple[Marks, ...] = ("tokens", "control", "text")


@pytest.mark.parametrize(
    ("template", "ending"),
    [
        (SWITCHED, "assistant\n"),
        (OPENED, "assistant\n<think>\n"),
        (SILENT, "assistant\n"),
        (KEEPING, "assistant\n"),
        (KEEPING_OPENED, "assistant\n<think>\n"),
    ],
)
@pytest.mark.parametrize("marks", MARKS)
def test_prompts_of_templates_that_think(tokenizer: Any, template: str, ending: str, marks: Marks) -> None:
    chat = Chat(thinking(tokenizer, template, marks), thinking=True)
    assert chat.opened == ending.endswith("<think>\n")
    for ids in (chat.opening("hello"), chat.continuation("more", chat.encode("x"))):
        assert chat.tokenizer.decode(ids).endswith(ending)
    if template is KEEPING:
        assert "/think" in chat.tokenizer.decode(chat.opening("hello"))


@pytest.mark.parametrize(("template", "off"), [(SWITCHED, True), (KEEPING, True), (OPENED, False), (PLAIN, True)])
def test_thinking_off_is_as_certain_as_ever(tokenizer: Any, template: str, off: bool) -> None:
    own = thinking(tokenizer, template)
    if off:
        prompt = own.decode(Chat(own).opening("hello"))
        assert prompt.endswith("assistant\n" if template is PLAIN else "<think>\n\n</think>\n\n")
        return
    with pytest.raises(ThinkingError, match=r"switched off; .*--lamer\.thinking on"):
        Chat(own)


@pytest.mark.parametrize("template", [PLAIN, CLOSED, PLAIN.replace("assistant\n", "assistant\n<think></think>")])
def test_templates_that_cannot_think_are_refused(tokenizer: Any, template: str) -> None:
    Chat(thinking(tokenizer, template))
    with pytest.raises(ThinkingError, match=r"would change nothing; leave --lamer\.thinking"):
        Chat(thinking(tokenizer, template), thinking=True)


@pytest.mark.parametrize("context", ["episode", "trial"])
@pytest.mark.parametrize("template", [SWITCHED, OPENED, SILENT])
def test_a_chat_that_goes_on_is_refused_where_templates_drop_thoughts(
    tokenizer: Any, template: str, context: ContextPolicy
) -> None:
    with pytest.raises(ThinkingError, match=rf"context {context}.* give --lamer\.context turn"):
        Chat(thinking(tokenizer, template), thinking=True, context=context)
    if template is not OPENED:
        Chat(thinking(tokenizer, template), context=context)


@pytest.mark.parametrize("template", [KEEPING, KEEPING_OPENED])
def test_a_chat_that_goes_on_with_thoughts_equals_the_template_rendered_whole(tokenizer: Any, template: str) -> None:
    chat = Chat(thinking(tokenizer, template), thinking=True, context="trial")
    said = thought(chat, "hm", "a reply")
    reply = (*chat.encode(said), *chat.end_of_reply)
    ids = chat.opening("one") + chat.kept(reply)
    ids += chat.continuation("two", reply)
    history = [("user", "one"), ("assistant", "<think>\nhm\n</think>\n\na reply"), ("user", "two")]
    whole = chat.tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in history],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=True,
    )
    assert chat.tokenizer.decode(ids) == whole


A, B = "<action>a</action>", "<action>b</action>"

READ: list[tuple[str, str | None, str]] = [
    # The reply; its action; and the reply up to where thoughts end.
    (f"<think>\nhm {A}\n</think>\n\n{B}", "b", f"<think>\nhm {A}\n</think>"),
    (f"<think></think>{B}", "b", "<think></think>"),
    (f"hm {A}</think>{B}", "b", f"hm {A}</think>"),
    (f"<think>hm</think>{A}<think>hm</think>{B}", "b", f"<think>hm</think>{A}<think>hm</think>"),
    (f"<think>a <think> in a thought</think>{B}", "b", "<think>a <think> in a thought</think>"),
    (f"{A}<think>hm</think>nothing", None, f"{A}<think>hm</think>"),
    (f"<think>hm</think>{A}{B}", None, "<think>hm</think>"),
]

UNCLOSED = [f"<think>hm {A}", f"<think>hm</think>{A}<think>", f"{A}<think>"]


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("template", [SWITCHED, OPENED])
@pytest.mark.parametrize(("reply", "action", "thoughts"), READ)
def test_the_answer_is_what_follows_the_last_thought(
    tokenizer: Any, marks: Marks, template: str, reply: str, action: str | None, thoughts: str
) -> None:
    chat = Chat(thinking(tokenizer, template, marks), thinking=True)
    ids = chat.encode(thoughts) + chat.encode(reply.removeprefix(thoughts)) + chat.end_of_reply
    read = chat.read(ids)
    assert read.text == reply
    assert read.answer == reply.removeprefix(thoughts)
    assert parse_tag(read.answer or "", "action") == action
    assert read.thought_tokens == len(chat.encode(thoughts))
    assert not read.unclosed


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("reply", UNCLOSED)
def test_a_thought_that_never_ends_leaves_no_answer(tokenizer: Any, marks: Marks, reply: str) -> None:
    chat = Chat(thinking(tokenizer, SWITCHED, marks), thinking=True)
    ids = chat.encode(reply)
    for each in (ids, ids + chat.end_of_reply):
        read = chat.read(each)
        assert (read.text, read.answer, read.thought_tokens) == (reply, None, len(each))
        assert read.unclosed


@pytest.mark.parametrize("marks", MARKS)
def test_a_reply_without_marks_is_a_thought_where_the_prompt_opened_one(tokenizer: Any, marks: Marks) -> None:
    opened, switched = (Chat(thinking(tokenizer, t, marks), thinking=True) for t in (OPENED, SWITCHED))
    ids = opened.encode(A)
    assert (opened.read(ids).answer, opened.read(ids).thought_tokens) == (None, len(ids))
    assert (switched.read(ids).answer, switched.read(ids).thought_tokens) == (A, 0)
    assert opened.read(()).unclosed
    assert switched.read(()).answer == ""


def test_marks_that_are_tokens_count_by_their_ids_and_not_as_text(tokenizer: Any) -> None:
    chat = Chat(thinking(tokenizer, OPENED), thinking=True)
    spelled = tuple(tokenizer.encode("hm </think>" + A, add_special_tokens=False))
    assert "</think>" in chat.decode(spelled)
    assert chat.read(spelled).unclosed
    (close,) = chat.encode("</think>")
    assert chat.read((*spelled, close, *chat.encode(B))).answer == B
    assert chat.read((*spelled, close, *chat.encode(B))).thought_tokens == len(spelled) + 1


def test_without_thinking_all_of_a_reply_is_its_answer(chat: Chat) -> None:
    read = chat.read(chat.encode(f"<think>{A}"))
    assert (read.text, read.answer, read.thought_tokens, read.unclosed) == (f"<think>{A}", f"<think>{A}", None, False)


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("text", ["<think>", "</think>", "< /think>", "＜think＞", "<THINK>", "a </thi", "<think x>"])
def test_text_from_outside_forms_no_marks(tokenizer: Any, marks: Marks, text: str) -> None:
    chat = Chat(thinking(tokenizer, OPENED, marks), thinking=True)
    cleaned = chat.clean(text)
    assert ends_inside(cleaned + "nk>") is None
    assert chat.clean(cleaned) == cleaned
    assert not {*chat.encode(cleaned)} & mark_ids(chat.tokenizer).keys()


def played(
    chat: Chat, policy: Policy, agent: Agent, *, max_new_tokens: int = 200, max_length: int = 9000, **config: Any
) -> Trial:
    settings = LamerConfig(**{"max_turns": 3, "num_episodes": 2, "retries": 0, "thinking": chat.thinking} | config)
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "max_length": max_length}
    trial = asyncio.run(run_trial(Task(agent.env, seed=0), agent, policy, chat, settings, **limits))
    assert trial.failure is None
    return trial


@pytest.fixture
def thinker(tokenizer: Any) -> Callable[..., tuple[Chat, Thinker]]:
    def make(template: str, context: ContextPolicy = "turn", marks: Marks = "tokens") -> tuple[Chat, Thinker]:
        chat = Chat(thinking(tokenizer, template, marks), thinking=True, context=context)
        return chat, Thinker(chat, 1)

    return make


@pytest.mark.parametrize("marks", MARKS)
@pytest.mark.parametrize("template", [SWITCHED, OPENED, SILENT, KEEPING])
def test_thoughts_stay_out_of_actions_remarks_memory_and_prompts(
    thinker: Callable[..., tuple[Chat, Thinker]], minesweeper: Agent, template: str, marks: Marks
) -> None:
    chat, policy = thinker(template, marks=marks)
    trial = played(chat, policy, minesweeper)
    reflection = trial.episodes[0].reflection
    assert reflection is not None
    assert reflection.action == "Try something else."
    assert all(turn.action and turn.action != "nothing" for turn in trial.turns)
    assert all("nothing</action>" in turn.text for turn in trial.turns if turn.phase is Phase.PLAY)
    (attempt, *_) = recall(trial.episodes, "both")
    assert "nothing" not in "".join([attempt.remark or "", *(turn.action or "" for turn in attempt.turns)])
    for turn in trial.turns:
        prompt = chat.tokenizer.decode(turn.prompt_ids)
        assert "Perhaps" not in prompt
        assert "I could say" not in prompt
        assert prompt.count("<think>") == (1 if chat.opened else 0)
        assert "</think>" not in prompt


def test_thought_tokens_are_counted_apart(thinker: Callable[..., tuple[Chat, Thinker]], minesweeper: Agent) -> None:
    chat, policy = thinker(OPENED)
    trial = played(chat, policy, minesweeper)
    thoughts = {
        Phase.PLAY: len(chat.encode("Perhaps <action>nothing</action>.\n</think>")),
        Phase.REFLECT: len(chat.encode("I could say <remark>nothing</remark>.\n</think>")),
    }
    assert [turn.thought_tokens for turn in trial.turns] == [thoughts[turn.phase] for turn in trial.turns]
    found = metrics.summarize([trial], 2, 0.6)
    assert found["thought_tokens"] == thoughts[Phase.PLAY] < found["reply_tokens"]
    assert found["reflection_thought_tokens"] == thoughts[Phase.REFLECT] < found["reflection_tokens"]
    assert found["unclosed_thoughts"] == 0
    assert Trial.from_json(trial.to_json()) == trial


def test_a_thought_that_the_limit_cuts_is_malformed_and_counted(
    thinker: Callable[..., tuple[Chat, Thinker]], minesweeper: Agent
) -> None:
    chat, policy = thinker(SWITCHED)
    cut = len(chat.encode("<think>\nPerhaps <action>nothing</action>."))
    trial = played(chat, policy, minesweeper, max_new_tokens=cut, num_episodes=1)
    assert [turn.action for turn in trial.turns] == [None] * 3
    assert [turn.reward for turn in trial.turns] == [-0.5] * 3
    assert [turn.thought_tokens for turn in trial.turns] == [cut] * 3
    found = metrics.summarize([trial], 1, 0.6)
    assert (found["unclosed_thoughts"], found["malformed_replies"], found["thought_tokens"]) == (1, 1, cut)
    (first, *others) = trial.turns
    mixed = replace(first, thought_tokens=0, unclosed=False)
    episode = replace(trial.episodes[0], turns=(mixed, *others))
    assert metrics.summarize([replace(trial, episodes=(episode,))], 1, 0.6)["unclosed_thoughts"] == pytest.approx(2 / 3)


def test_without_thinking_there_is_no_key_for_thoughts(play: Callable[..., Trial], chat: Chat) -> None:
    trial = play(Thinker(chat, 0), num_episodes=2, max_turns=2)
    assert not [key for key in metrics.summarize([trial], 2, 0.6) if "thought" in key]
    assert [turn.thought_tokens for turn in trial.turns] == [None] * len(trial.turns)
    old = trial.to_json().replace(',"thought_tokens":null,"unclosed":false', "")
    assert old != trial.to_json()
    assert Trial.from_json(old) == trial


@pytest.mark.parametrize(("context", "rows"), [("turn", None), ("episode", 2), ("trial", 1)])
@pytest.mark.parametrize("template", [KEEPING, KEEPING_OPENED])
def test_thoughts_are_trained_like_the_rest_of_a_reply(
    thinker: Callable[..., tuple[Chat, Thinker]],
    minesweeper: Agent,
    template: str,
    context: ContextPolicy,
    rows: int | None,
) -> None:
    chat, policy = thinker(template, context)
    trial = played(chat, policy, minesweeper, context=context)
    found = trial_rows(trial)
    assert len(found) == (rows or len(trial.turns))
    spans = [(row, span) for row in found for span in row.spans]
    assert [span.turn for _, span in spans] == list(range(len(trial.turns)))
    for row, span in spans:
        turn = trial.turns[span.turn]
        assert row.ids[span.start : span.end] == turn.sampled_ids
        assert span.end - span.start == len(turn.sampled_ids) > (turn.thought_tokens or 0) > 0


def test_prompts_do_not_ask_a_model_that_thinks_to_think_in_its_answer(
    thinker: Callable[..., tuple[Chat, Thinker]], chat: Chat, minesweeper: Agent
) -> None:
    thinks, policy = thinker(SWITCHED)
    by_thinking = [(thinks, policy), (chat, Thinker(chat, 1))]
    own, plain = (
        [speaks.tokenizer.decode(turn.prompt_ids) for turn in played(speaks, player, minesweeper).turns]
        for speaks, player in by_thinking
    )
    assert all("hink first" not in prompt for prompt in own)
    assert all("hink first" in prompt or "think first" in prompt for prompt in plain)
    assert all("and nothing else" in prompt for prompt in own)
    assert all("and nothing else" not in prompt for prompt in plain)


class Said:
    """Gives the same text to each request, as characters."""

    def __init__(self, text: str, cut: bool = False) -> None:
        self.text, self.cut = text, cut

    async def generate(self, request: Request) -> Generation:
        return Generation((*map(ord, self.text), *(() if self.cut else (END,))), None, truncated=self.cut)


@pytest.mark.parametrize("context", ["episode", "trial"])
def test_a_chat_of_messages_goes_on_with_answers_only(minesweeper: Agent, context: ContextPolicy) -> None:
    chat = TextChat(thinking=True)
    trial = played(chat, Said(f"<think>\nhm\n</think>\n\n{B}"), minesweeper, context=context, num_episodes=1)
    assert [turn.thought_tokens for turn in trial.turns] == [len("<think>\nhm\n</think>")] * 3
    roles = messages(trial.turns[-1].prompt_ids)
    assert [each["content"] for each in roles if each["role"] == "assistant"] == [B, B]
    assert "hm" not in chat.decode(trial.turns[-1].prompt_ids)
    cut = played(chat, Said("<think>\nhm", cut=True), minesweeper, context=context, num_episodes=1)
    roles = messages(cut.turns[-1].prompt_ids)
    assert [each["content"] for each in roles if each["role"] == "assistant"] == ["", ""]


@pytest.mark.parametrize(
    ("thoughts", "answer", "cut", "expected"),
    [
        ("hm", B, False, f"<think>\nhm\n</think>\n\n{B}"),
        ("hm", "", True, "<think>\nhm"),
        ("hm", "", False, "<think>\nhm\n</think>\n\n"),
        ("hm", "<act", True, "<think>\nhm\n</think>\n\n<act"),
        ("", B, False, B),
        ("", f"hm</think>{B}", True, f"hm</think>{B}"),
        ("", f"hm {A}", True, f"<think>\nhm {A}"),
    ],
)
def test_replies_of_servers_are_read_like_others(thoughts: str, answer: str, cut: bool, expected: str) -> None:
    assert written(thoughts, answer, cut=cut) == expected
    read = TextChat(thinking=True).read(tuple(map(ord, expected)))
    assert read.unclosed == (cut and B not in expected and "</think>" not in expected)
