"""Thinking in commands: the driver's refusals and defaults, evaluations behind servers, a model that learnt it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_endpoint import CELL, Fake, ask, evaluate, said
from thinking_model import KEEPING, OPENED, PLAIN, SWITCHED, Thinker, make_model, thinking
from typer.testing import CliRunner

from openrlhf_lamer import room
from openrlhf_lamer.agents import Agent
from openrlhf_lamer.chat import Chat, parse_tag
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.evaluation.run import read_trials
from openrlhf_lamer.policies import Generation
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.trial import run_trial

pytest.importorskip("httpx")

ON = ("--lamer.thinking", "on")


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command line of a training, with a folder for its model."""
    pytest.importorskip("openrlhf")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
    return [
        *("--agent_func", "openrlhf_lamer.agents.minesweeper", "--actor.model_name_or_path", str(folder)),
        *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
    ]


@pytest.mark.parametrize(
    ("template", "flags", "message"),
    [
        (OPENED, (), r"thinking mode although it was switched off; .*--lamer\.thinking on"),
        (PLAIN, ON, r"--actor\.model_name_or_path .*would change nothing; leave --lamer\.thinking"),
        (SWITCHED, (*ON, "--lamer.context", "episode"), r"in context episode.*; give --lamer\.context turn"),
        (OPENED, (*ON, "--lamer.context", "trial"), r"in context trial.*; give --lamer\.context turn"),
        (SWITCHED, (), None),
        (SWITCHED, ON, None),
        (OPENED, ON, None),
        (KEEPING, (*ON, "--lamer.context", "trial"), None),
    ],
)
def test_the_driver_refuses_what_a_template_cannot_do(
    line: list[str], tmp_path: Path, tokenizer: Any, template: str, flags: tuple[str, ...], message: str | None
) -> None:
    from openrlhf_lamer.integration.launch import launcher

    thinking(tokenizer, template).save_pretrained(tmp_path / "model")
    if message is None:
        assert launcher.prepare([*line, *flags]).line.config.thinking == (ON[0] in flags)
        return
    with pytest.raises(ConfigError, match=message):
        launcher.prepare([*line, *flags])


def test_replies_have_more_room_by_default_with_thinking(line: list[str], minesweeper: Agent) -> None:
    from openrlhf_lamer.integration.launch import launcher

    def limits(*flags: str) -> tuple[int, int]:
        plan = launcher.prepare([*line, *flags])
        return plan.line["rollout.max_new_tokens"], plan.line["data.max_len"]

    off, on = limits(), limits(*ON)
    assert (off[0], on[0]) == (1024, 4096)
    assert on[1] == room.needed(minesweeper, LamerConfig(thinking=True), 4096) > off[1]
    assert limits(*ON, "--rollout.max_new_tokens", "512")[0] == 512
    passed = launcher.prepare([*line, *ON]).host_argv
    assert passed[passed.index("--rollout.max_new_tokens") + 1 :][0] == "4096"


def test_room_counts_the_prompts_that_a_model_is_given_that_thinks(minesweeper: Agent) -> None:
    """They leave out the request to think; earlier replies in a chat count by their larger limit."""
    prompts = {
        (context, thinks): room._longest_prompt(
            minesweeper, LamerConfig.model_validate({"context": context, "thinking": thinks}), 4096, {}
        )
        for context in ("turn", "trial")
        for thinks in (False, True)
    }
    for context in ("turn", "trial"):
        assert 0 < prompts[context, False] - prompts[context, True] < 60
    replies = 3 * minesweeper.max_turns + 2 - 1
    shorter = room._longest_prompt(minesweeper, LamerConfig(context="trial", thinking=True), 1024, {})
    assert prompts["trial", True] - shorter == replies * (4096 - 1024) // 4


THOUGHTS = "Perhaps <action>(3, 3)</action>."


@pytest.mark.parametrize(
    "answer",
    [
        said(CELL, reasoning=THOUGHTS),
        said(CELL, reasoning_content=THOUGHTS),
        said(f"<think>\n{THOUGHTS}\n</think>\n\n{CELL}"),
        said(f"{THOUGHTS}\n</think>\n\n{CELL}"),
    ],
    ids=["reasoning", "reasoning_content", "in the reply", "in a prompt that opened it"],
)
def test_a_served_model_that_thinks_is_evaluated(fake: Fake, tmp_path: Path, answer: dict[str, Any]) -> None:
    usage = {"usage": {"completion_tokens_details": {"reasoning_tokens": 9}}}
    fake.reply = lambda path, body: (200, answer | usage)
    result = evaluate(fake, tmp_path, "--thinking", "--context", "trial", "--first", "3")
    assert result.exit_code == 0, result.output
    trials = read_trials(tmp_path)
    whole = answer["choices"][0]["message"]["content"]
    thoughts = whole.removesuffix("\n\n" + CELL) if whole != CELL else f"<think>\n{THOUGHTS}\n</think>"
    for turn in (turn for trial in trials for turn in trial.turns):
        assert turn.thought_tokens == len(thoughts)
        assert turn.text == f"{thoughts}\n\n{CELL}"
    assert {turn.action for trial in trials for episode in trial.episodes for turn in episode.turns} == {"(1, 1)"}
    played = json.loads(result.stdout.splitlines()[-1])["played"]
    assert (played["thought_characters"], played["unclosed_thoughts"]) == (len(thoughts), 0)
    for _, body in fake.asked:
        assert (body["chat_template_kwargs"], body["max_tokens"]) == ({"enable_thinking": True}, 4096)
        assert {each["content"] for each in body["messages"] if each["role"] == "assistant"} <= {CELL}
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["config"]["thinking"] is True
    assert "other settings" in evaluate(fake, tmp_path, "--context", "trial", "--first", "3").output


def test_a_served_thought_that_the_limit_cuts_plays_nothing(fake: Fake) -> None:
    for message in ({"reasoning": THOUGHTS, "content": None}, {"content": THOUGHTS}, {"content": f"<think>{THOUGHTS}"}):
        fake.reply = lambda path, body, message=message: (200, said("", "length", **message))
        (reply,) = ask(fake, thinking=True)
        assert isinstance(reply, Generation)
        read = TextChat(thinking=True).read(reply.ids)
        assert (read.unclosed, reply.truncated, THOUGHTS in read.text) == (True, True, True)


@pytest.mark.parametrize(
    ("template", "flags", "message"),
    [
        (PLAIN, ("--thinking",), "would change nothing; leave --lamer.thinking (--thinking) out"),
        (SWITCHED, ("--thinking", "--context", "trial"), "(--context turn)"),
        (OPENED, (), "--thinking"),
    ],
)
def test_an_evaluation_by_token_ids_is_refused_where_a_template_cannot(
    fake: Fake, tmp_path: Path, tokenizer: Any, template: str, flags: tuple[str, ...], message: str
) -> None:
    thinking(tokenizer, template).save_pretrained(tmp_path / "model")
    result = evaluate(fake, tmp_path / "run", "--tokenizer", str(tmp_path / "model"), *flags)
    assert result.exit_code == 2
    assert message in result.output
    assert not fake.asked


def test_a_script_does_not_think(tmp_path: Path) -> None:
    flags = [
        "eval",
        "--tasks",
        "minesweeper/3-mines",
        "--player",
        "random",
        "--thinking",
        "--out",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(app, flags)
    assert (result.exit_code, "--thinking: a script" in result.output) == (2, True)


def test_a_tiny_model_learns_to_think_before_it_answers(tmp_path: Path, minesweeper: Agent) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"size": 4, "mines": 2}
    config = LamerConfig(thinking=True, num_episodes=2, max_turns=2, env_options=options)
    tasks = seeded_tasks("minesweeper", "train", 100, first=1000, options=options)
    chat = make_model(tmp_path, minesweeper, tasks, config)
    limits: dict[str, Any] = {"max_new_tokens": 400, "max_length": 2048}
    trial = asyncio.run(run_trial(tasks[0], minesweeper, Thinker(chat, 0), chat, config, **limits))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    prompt = torch.tensor([trial.turns[0].prompt_ids])
    reply = model.generate(prompt, max_new_tokens=60, do_sample=False)[0, prompt.shape[1] :].tolist()
    read = Chat(tokenizer, thinking=True).read(reply)
    assert read.text.startswith("<think>\nPerhaps <action>nothing</action>.\n</think>")
    assert re.fullmatch(r"\(\d, \d\)", parse_tag(read.answer or "", "action") or "")
