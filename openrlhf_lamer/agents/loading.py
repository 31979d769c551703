"""Loading an agent by its module or file, and the seam through which OpenRLHF finds its executor."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from openrlhf_lamer.agents.base import Agent, AgentError

AGENTS_VAR = "OPENRLHF_LAMER_AGENTS"
"""Environment variable by which the files of several agents, as a JSON list, reach the processes that play."""


def load_agent(name: str) -> tuple[Agent, Path]:
    """Agent of a module (`openrlhf_lamer.agents.sokoban`) or file (`my_agent.py`), and the path of its file.

    Raises:
        AgentError: if there is no such module or file, or it defines no `agent`.
    """
    module = import_file(Path(name)) if name.endswith(".py") else _import_module(name)
    agent = getattr(module, "agent", None)
    if not isinstance(agent, Agent) or module.__file__ is None:
        raise AgentError(f"{name} defines no `agent` (an openrlhf_lamer.agents.Agent)")
    return agent, Path(module.__file__).resolve()


def load_agents(names: Iterable[str]) -> dict[str, tuple[Agent, Path]]:
    """Agents of modules and files by the environment they play, each with the path of its file.

    Raises:
        AgentError: as `load_agent` does, or if two of them play the same environment.
    """
    found: dict[str, tuple[str, Agent, Path]] = {}
    for name in names:
        agent, file = load_agent(name)
        if agent.env in found:
            raise AgentError(
                f"{found[agent.env][0]} and {name} both play {agent.env!r}, and a task is played by the agent of its "
                "environment; name one of them"
            )
        found[agent.env] = name, agent, file
    return {env: (agent, file) for env, (_, agent, file) in found.items()}


def split_names(text: str) -> list[str]:
    """Names of agents in a text that separates them by commas; raises `AgentError` where one is empty."""
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise AgentError(f"{text!r} has a comma without a name beside it; name agents as in FIRST,SECOND")
    return names


def recorded(name: str, file: Path) -> dict[str, str]:
    """An agent as a run's settings name it: a module by its name, a file by its path and a hash of its text."""
    text = file.read_text("utf-8")
    return {"name": name} | ({"hash": sha256(text.encode()).hexdigest()[:32]} if name.endswith(".py") else {})


def host_seam(agent: Agent) -> Callable[[str], Any]:
    """Module `__getattr__` that offers `AgentExecutor`, which OpenRLHF looks for in an agent's file.

    The class is made on request, so that importing an agent does not import OpenRLHF.
    """

    def getattr_(name: str) -> Any:
        if name == "AgentExecutor":
            from openrlhf_lamer.integration.rollout.executor import executor_class

            return executor_class(agent)
        raise AttributeError(f"module has no attribute {name!r}")

    return getattr_


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and name.startswith(error.name):
            known = sorted(
                p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "base", "loading")
            )
            offered = ", ".join(f"openrlhf_lamer.agents.{stem}" for stem in known)
            raise AgentError(f"no module {name!r}. Bundled agents: {offered}; or give a .py file") from error
        raise


def import_file(path: Path) -> ModuleType:
    """Run a .py file as a module; raises `AgentError` where there is none."""
    spec = importlib.util.spec_from_file_location(inspect.getmodulename(str(path)) or "agent", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise AgentError(f"no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
