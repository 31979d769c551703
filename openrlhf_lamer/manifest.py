"""Files of the frozen panels below `manifests/`: their content, their hash, and the states that they hold out.

A file states a hash of its content, so that a changed file is refused.
"""

from __future__ import annotations

import json
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrlhf_lamer import LamerError

if TYPE_CHECKING:
    from openrlhf_lamer.envs.base import Observation, TextEnv

MANIFESTS = Path(__file__).parent / "manifests"

SCHEMA = 1

REMEDY = "reinstall openrlhf-lamer"


class PanelError(LamerError, ValueError):
    """A panel does not exist, its file was changed, or its data differs from it."""


def names() -> tuple[str, ...]:
    """Names of all panels, sorted."""
    return tuple(sorted(path.relative_to(MANIFESTS).with_suffix("").as_posix() for path in MANIFESTS.rglob("*.json")))


def read(name: str) -> dict[str, Any]:
    """Content of a panel's file, without hash and schema.

    Raises:
        PanelError: There is no panel of this name, or its file was changed.
    """
    if name not in names():
        close = get_close_matches(name, names(), n=1)
        guess = f" (did you mean {close[0]!r}?)" if close else ""
        raise PanelError(f"no panel is called {name!r}{guess}; there are: {', '.join(names())}")
    path = MANIFESTS / f"{name}.json"
    try:
        body = json.loads(path.read_text("utf-8"))
        stated = body.pop("hash")
    except (ValueError, KeyError, AttributeError) as error:
        raise PanelError(f"{path} is no panel ({error!r}); {REMEDY}") from error
    if stated != content_hash(body):
        raise PanelError(f"{path} was changed: its content does not have the hash that it states; {REMEDY}")
    if body.pop("schema") != SCHEMA:
        raise PanelError(f"{path} is of another version of openrlhf-lamer; {REMEDY}")
    return body


def held_out(env: TextEnv) -> frozenset[str]:
    """Initial states of the evaluation tasks of `env`, from all panels whose options it has."""
    fitting = (read(name) for name in names() if name.startswith(f"{env.name}/"))
    return frozenset(
        row["state"]
        for body in fitting
        if all(getattr(env, option, None) == value for option, value in body["options"].items())
        for row in body["tasks"]
    )


def state_hash(observation: Observation, anchor: str) -> str:
    """Hash of an initial state: its text, its admissible actions, and the environment's anchor."""
    return content_hash([observation.text, list(observation.admissible), anchor])[:32]


def content_hash(content: Any) -> str:
    """SHA-256 of plain data in canonical JSON."""
    return sha256(to_json(content).encode()).hexdigest()


def to_json(content: Any) -> str:
    """Canonical JSON of plain data, on one line."""
    return json.dumps(content, sort_keys=True, ensure_ascii=False)
