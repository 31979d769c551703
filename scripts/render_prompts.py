"""Render the prompts of the bundled agents into `docs/prompts`, from their templates.

    python scripts/render_prompts.py

Each page shows the prompts of one trial, as the trial loop builds them: a scripted player loses the
first attempt, reflects, and begins a second one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from openrlhf_lamer import envs
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.envs.seeding import generator
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Trial, Turn
from openrlhf_lamer.trial import run_trial

PAGES = Path(__file__).parent.parent / "docs" / "prompts"

AGENTS = envs.names(plugins=False)
"""Bundled agents, which are named like their environments."""

REMARK = "The reasoning comes here. <remark>What to do differently comes here.</remark>"

TURNS = 4
"""Turns of an attempt, so that one page shows an early turn, a late one and the end."""


class Letters:
    """A tokenizer whose tokens are letters and whose chat template only marks the ends of messages."""

    chat_template = "letters"
    all_special_tokens = ("\f",)
    added_tokens_decoder: Mapping[int, Any] = MappingProxyType({})

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> str:
        """Messages, each ended by a form feed."""
        return "".join(f"{message['content']}\f" for message in messages)

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        """Code points of the letters."""
        return {"input_ids": [ord(letter) for letter in text]}

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Letters of the ids."""
        text = "".join(map(chr, ids))
        return text.replace("\f", "") if skip_special_tokens else text


class Loser(ScriptedPolicy):
    """Plays at random."""

    def __init__(self, chat: Chat) -> None:
        super().__init__(chat)
        self._rng = generator("prompts")

    def act(self, env: TextEnv) -> str:
        """A random action."""
        return f"The reasoning comes here. <action>{env.random_action(self._rng)}</action>"

    def reflect(self, env: TextEnv) -> str:
        """Placeholder of a reflection."""
        return REMARK


def lost_trial(agent: Agent, context: Literal["turn", "trial"]) -> Trial:
    """First trial whose first attempt uses all its turns and is lost."""
    chat = Chat(Letters())
    turns = min(TURNS, agent.max_turns)
    config = LamerConfig(num_episodes=2, max_turns=turns, context=context)
    for task in envs.lookup(agent.env).tasks("train", 100):
        trial = asyncio.run(run_trial(task, agent, Loser(chat), chat, config, max_new_tokens=9999, max_length=999_999))
        if trial.failure is not None:
            raise envs.TaskError(f"{agent.env}: {trial.failure.message}")
        if len(trial.episodes) > 1 and len(trial.episodes[0].turns) == turns:
            return trial
    raise AssertionError(f"no attempt of {turns} turns at {agent.env} is lost")


def messages(turn: Turn) -> list[str]:
    """Messages in the prompt of a turn: the user's, and the replies between them."""
    return Letters().decode(list(turn.prompt_ids), skip_special_tokens=False).rstrip("\f").split("\f")


def page(name: str) -> str:
    """Page of one agent, in Markdown. Raises `TaskError` if its environment is not installed."""
    agent, _ = load_agent(f"openrlhf_lamer.agents.{name}")
    fresh, going_on = lost_trial(agent, "turn"), lost_trial(agent, "trial")
    turns, reflection = fresh.episodes[0].turns, fresh.episodes[0].reflection
    reflection_going_on = going_on.episodes[0].reflection
    assert reflection is not None
    assert reflection_going_on is not None
    several = len(turns) > 1
    about = "Made from the templates by `scripts/render_prompts.py`, from a trial that a random player lost."
    if len(turns) < agent.max_turns:
        about += f" Here an attempt has {len(turns)} turns; by default it has {agent.max_turns}."
    parts = [
        f"# Prompts of `openrlhf_lamer.agents.{name}`",
        about,
        "## The first turn",
        block(messages(turns[0])[0]),
        *(("## The last turn of the attempt", block(messages(turns[-1])[0])) if several else ()),
        "## The reflection",
        block(messages(reflection)[0]),
        "## The first turn of the second attempt",
        block(messages(fresh.episodes[1].turns[0])[0]),
        "## In a chat that goes on",
        "With `--lamer.context episode` or `trial` a prompt adds only what is new.",
        *(("The second turn:", block(messages(going_on.episodes[0].turns[1])[-1])) if several else ()),
        "The reflection:",
        block(messages(reflection_going_on)[-1]),
        "The second attempt:",
        block(messages(going_on.episodes[1].turns[0])[-1]),
    ]
    return "\n\n".join(parts) + "\n"


def block(text: str) -> str:
    """Verbatim text in Markdown."""
    return f"```text\n{text.strip()}\n```"


def main() -> int:
    """Write all pages; returns 1 if one could not be made."""
    missing = 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for name in AGENTS:
        try:
            (PAGES / f"{name}.md").write_text(page(name), "utf-8")
        except (envs.TaskError, ImportError) as error:
            print(f"{name}: not rendered: {error}", file=sys.stderr)
            missing = 1
    return missing


if __name__ == "__main__":
    sys.exit(main())
