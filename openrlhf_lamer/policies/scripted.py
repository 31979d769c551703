"""Players that follow a script: for tests, baselines, and to warm-start a model."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable

from openrlhf_lamer.chat import Chat
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.policies.base import EngineError, Generation, Request
from openrlhf_lamer.records import Phase


class ScriptedPolicy(ABC):
    """Replies with the text of a script, tokenised and ended like a model's reply."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    @abstractmethod
    def act(self, env: TextEnv) -> str:
        """Reply of a play turn in the current state."""

    def reflect(self, env: TextEnv) -> str:
        """Reply of a reflection turn, with `env` in its final state."""
        return "That did not work. <remark>Try something else.</remark>"

    async def generate(self, request: Request) -> Generation:
        """The script's reply, cut at the request's limit."""
        if request.env is None:
            raise EngineError("a scripted player needs its environment in its own process, not on a worker")
        text = self.act(request.env) if request.phase is Phase.PLAY else self.reflect(request.env)
        ids = self._chat.encode(text) + self._chat.end_of_reply
        return Generation(ids[: request.max_tokens], None, truncated=len(ids) > request.max_tokens)


class RandomPolicy(ScriptedPolicy):
    """Plays a random legal action each turn, drawn by the request's seed if it has one."""

    def __init__(self, chat: Chat, seed: int = 0) -> None:
        super().__init__(chat)
        self._rng = random.Random(seed)

    async def generate(self, request: Request) -> Generation:
        """The script's reply."""
        if request.seed is not None:
            self._rng = random.Random(request.seed)
        return await super().generate(request)

    def act(self, env: TextEnv) -> str:
        """A random legal action."""
        return f"I try this. <action>{env.random_action(self._rng)}</action>"


class TypedPolicy(ScriptedPolicy):
    """Gives a list of actions one by one, whatever the state, and likewise a list of remarks on lost episodes.

    Args:
        chat: Turns the replies into ids.
        actions: The actions of all episodes. A trial that needs more of them fails.
        remarks: The remarks; once they are used up, the default one.
    """

    def __init__(self, chat: Chat, actions: Iterable[str], remarks: Iterable[str] = ()) -> None:
        super().__init__(chat)
        self._actions, self._remarks = iter(actions), iter(remarks)

    def act(self, env: TextEnv) -> str:
        """The next action."""
        action = next(self._actions, None)
        if action is None:
            raise EngineError("the trial goes on, but there are no more actions; give more")
        return f"<action>{action}</action>"

    def reflect(self, env: TextEnv) -> str:
        """The next remark."""
        remark = next(self._remarks, None)
        return super().reflect(env) if remark is None else f"<remark>{remark}</remark>"


class OraclePolicy(ScriptedPolicy):
    """Plays the actions of the environment's own oracle."""

    def act(self, env: TextEnv) -> str:
        """The oracle's action; raises as `oracle_action` does."""
        return f"I know this one. <action>{oracle_action(env)}</action>"


def oracle_action(env: TextEnv) -> str:
    """The action of the environment's own oracle; raises `EngineError` where there is none."""
    action = env.oracle()
    if action is None:
        raise EngineError(
            f"{env.name} has no oracle for this state; write its method `oracle`, or take another player, such as "
            "--player random"
        )
    return action
