"""Data sets of the environments: what the variables name, and whether it is all there."""

from __future__ import annotations

import os
from pathlib import Path

from openrlhf_lamer.agents import AgentError, load_agent
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.doctor import Check, Verdict, error, ok, told, warning
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import TaskError
from openrlhf_lamer.room import RoomError, settle


def alfworld(data: str | None) -> Check:
    """The official games in the folder that ALFWORLD_DATA names; generated ones need none.

    Games are counted and not read: `openrlhf-lamer prepare alfworld` does that.
    """
    from openrlhf_lamer.envs.alfworld import catalogue, wheel

    name = "ALFWorld's data"
    try:
        wheel.require()
    except TaskError as problem:
        return told(name, Verdict.WARNING, problem)
    if not data:
        return ok(name, f"{catalogue.VARIABLE} is not set: generated games, which need no data")
    folder = Path(data) / catalogue.FOLDER
    download = f"{catalogue.DOWNLOAD} --data-dir {data}, then openrlhf-lamer prepare alfworld --data {data}"
    if not folder.is_dir():
        return error(name, f"{catalogue.VARIABLE}={data} holds no folder {catalogue.FOLDER}", download)
    counts = {split: _games(split, folder) for split in catalogue.COUNTS}
    # Unsolvable games, which reading would tell, are in the download too: there may be more files than games.
    short = [
        f"{split} {count} of {sum(catalogue.COUNTS[split].values())}"
        for split, count in counts.items()
        if count < sum(catalogue.COUNTS[split].values())
    ]
    if not any(counts.values()):
        return error(name, f"no games in {folder}", download)
    if short:
        return warning(name, f"{folder} lacks games: {', '.join(short)}", download)
    return ok(name, f"{folder}: {', '.join(f'{count} {split}' for split, count in counts.items())}")


def webshop(data: str | None) -> Check:
    """The catalogue in the folder that WEBSHOP_DATA names, compiled or not; the synthetic one needs none."""
    from openrlhf_lamer.envs.webshop import env, stored

    name = "WebShop's data"
    if not data or data == env.SYNTHETIC:
        return ok(name, f"{env.ENV_VAR} is not set: a synthetic catalogue, which needs no data")
    folder, shops = Path(data), []
    try:
        for products, goals in stored.compiled_kinds(folder) or [(None, "generated")]:
            shop = stored.load(folder, products, goals)
            shops.append(f"{len(shop.products)} products with {len(shop.goals)} {goals} goals")
    except TaskError as problem:
        return told(name, Verdict.ERROR, problem)
    return ok(name, f"{folder}, compiled: {'; '.join(shops)}")


def agent(named: str) -> tuple[Check, str]:
    """Whether an agent can be loaded and its environment opened; also the environment's name, empty if unknown."""
    name = f"agent {named}"
    try:
        env = load_agent(named)[0].env
    except AgentError as problem:
        return error(name, str(problem), "name a module, such as openrlhf_lamer.agents.sokoban, or a .py file"), ""
    except Exception as problem:  # the user's own file may raise anything
        return error(name, f"{type(problem).__name__}: {problem}", "mend the agent's file"), ""
    try:
        registry.make(env).close()
    except TaskError as problem:
        return told(name, Verdict.ERROR, problem), env
    except Exception as problem:
        return error(name, f"{env}: {type(problem).__name__}: {problem}", "mend the environment"), env
    return ok(name, f"its environment {env} opens"), env


def prompts(named: str, config: LamerConfig, max_new_tokens: int, *, given: int | None, model: int | None) -> Check:
    """Whether the prompts of an agent fit.

    Args:
        named: The agent.
        config: Attempts, turns, context and memory.
        max_new_tokens: Most tokens of a reply.
        given: What `--data.max_len` will be, None for the default.
        model: Tokens that the model takes at most, None if unknown.
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
    """The data of environment `env`, or of all that have some."""
    known = {"alfworld": (alfworld, "ALFWORLD_DATA"), "webshop": (webshop, "WEBSHOP_DATA")}
    return [look(os.environ.get(variable)) for name, (look, variable) in known.items() if env in ("", name)]


def _games(split: str, folder: Path) -> int:
    from openrlhf_lamer.envs.alfworld import catalogue

    try:
        return len(catalogue.official_names(split, folder=folder))
    except TaskError:  # none
        return 0
