"""Checks of an agent, its prompts, and the data sets of environments."""

from __future__ import annotations

from contextlib import suppress

from openrlhf_lamer.agents import AgentError, load_agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.doctor import Check, Verdict, error, ok, told
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.room import RoomError, settle


def agent(named: str) -> tuple[Check, str]:
    """Whether an agent can be loaded and its environment opened; and the environment's name, empty if unknown."""
    name = f"agent {named}"
    try:
        env = load_agent(named)[0].env
    except AgentError as problem:
        return error(name, str(problem), "name a module, such as openrlhf_lamer.agents.sokoban, or a .py file"), ""
    except Exception as problem:  # the user's own file may raise anything
        return error(name, f"{type(problem).__name__}: {problem}", "fix the agent's file"), ""
    try:
        registry.make(env).close()
    except TaskError as problem:
        return told(name, Verdict.ERROR, problem), env
    except Exception as problem:
        return error(name, f"{env}: {type(problem).__name__}: {problem}", "fix the environment"), env
    return ok(name, f"its environment {env} opens"), env


def prompts(named: str, config: LamerConfig, max_new_tokens: int, *, given: int | None, model: int | None) -> Check:
    """Whether the prompts of an agent fit.

    Args:
        named: The agent.
        config: Attempts, turns, context and memory.
        max_new_tokens: Most tokens of a reply.
        given: Value of `--data.max_len`, None for the default.
        model: Most tokens that the model takes, None if unknown.
    """
    name = f"prompts in context {config.context}"
    try:
        length, short = settle(
            load_agent(named)[0], config, max_new_tokens, flag="--data.max_len", given=given, model=model
        )
    except RoomError as problem:
        return told(name, Verdict.ERROR, problem)
    if short:
        return told(name, Verdict.WARNING, RoomError(short))
    return ok(name, f"they fit into --data.max_len {length}" + (", the default" if given is None else ""))


def checks(env: str = "") -> list[Check]:
    """Data of environment `env`, or of all that have some; environments that can't be loaded are left out."""
    found: list[Check | None] = []
    for name in [env] if env else registry.names():
        with suppress(TaskError):
            found.append(registry.lookup(name).data_check())
    return [check for check in found if check is not None]
