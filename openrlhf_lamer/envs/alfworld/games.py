"""Games as they are played: compiled once, kept on disk and in memory, played by `Play`."""

from __future__ import annotations

import json
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from openrlhf_lamer import LamerError
from openrlhf_lamer.envs.alfworld import planner, storage, wheel
from openrlhf_lamer.envs.alfworld.grammar import Binding, Entity, Grammar
from openrlhf_lamer.envs.alfworld.sentences import parse
from openrlhf_lamer.envs.base import TaskError

FORMAT = 1
"""Version of compiled games on disk."""

NOTHING_HAPPENS = "Nothing happens."


class GameError(LamerError, ValueError):
    """A file that is no game; the message says why."""


@dataclass(frozen=True)
class Game:
    """A game ready to be played; it is immutable, and shared by everything that plays it.

    Attributes:
        key: Digest of the rules and the problem.
        sas: Problem in the form that the planner's library loads.
        facts: The initial facts that a rule, the goal or a sentence reads, by predicate.
        digest: The initial facts as one number, see `Play.anchor`.
        parameters: The placeholders of each action.
        entities: All things by id.
        grammar: Sentences of the game.
        walkthrough: Commands that win.
    """

    key: str
    sas: bytes
    facts: Mapping[str, frozenset[tuple[str, ...]]]
    digest: int
    parameters: Mapping[str, tuple[tuple[str, str], ...]]
    entities: Mapping[str, Entity]
    grammar: Grammar
    walkthrough: tuple[str, ...]
    tracked: frozenset[str]
    """Predicates whose changes `Play` follows; a sentence may read `not_p` as well."""
    _commands: dict[str, tuple[str, str, Binding]] = field(default_factory=dict, repr=False, compare=False)

    def command(self, operator: str) -> tuple[str, str, Binding]:
        """The text of an operator's command, its action, and the ids of the action's placeholders."""
        known = self._commands.get(operator)
        if known is None:
            action, *ids = operator.split(" ")
            # The translator appends its own parameters to an action with an "exists"; they have no ids.
            binding = dict(zip(self.parameters[action], ids, strict=False))
            text = self.grammar.say(self.grammar.commands[action], self.facts, binding, self.entities)
            known = self._commands[operator] = (text, action, binding)
        return known


class Play:
    """One running game. Not thread-safe; it holds a copy of the planner's library until `close`."""

    def __init__(self) -> None:
        self._library = planner.lease()
        self._give_back = weakref.finalize(self, planner.give_back, self._library)
        # At the interpreter's end there is nothing to give back to.
        self._give_back.atexit = False
        self._busy = False

    def close(self) -> None:
        """Let another game use the copy of the library; a copy that a thread hangs in is abandoned."""
        if self._busy:
            self._give_back.detach()
        else:
            self._give_back()

    def begin(self, game: Game) -> str:
        """Start a game and return its opening words."""
        self.game = game
        with self._using_the_library():
            return self._begin(game)

    def _begin(self, game: Game) -> str:
        self._library.load_sas(game.sas)
        self._facts: dict[str, Any] = dict(game.facts)
        self._digest = game.digest
        self._look()
        return game.grammar.say(game.grammar.rules["intro"][0].symbols, self._facts, {}, game.entities)

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands that can be carried out now, sorted."""
        return self._commands

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return bool(self._library.check_goal())

    @property
    def anchor(self) -> str:
        """The game and the facts that hold, as a digest.

        Facts that no rule, goal or sentence reads, such as ALFRED's `checked` (something has been looked at),
        change nothing that follows, so they are left out.
        """
        return f"{self.game.key[:16]}:{self._digest:032x}"

    def do(self, command: str) -> str | None:
        """Carry out a command and return the answer; None where it is refused, which changes nothing."""
        found = self._operators.get(command)
        if found is None:
            return None
        with self._using_the_library():
            return self._do(*found)

    def _do(self, operator: int, name: str, num_effects: int) -> str:
        _, action, binding = self.game.command(name)
        for holds, predicate, ids in planner.apply(self._library, operator, num_effects):
            self._set(predicate, ids, holds)
            self._set(f"not_{predicate}", ids, not holds)
        self._look()
        game = self.game
        return game.grammar.say(game.grammar.feedback[action], self._facts, binding, game.entities)

    @contextmanager
    def _using_the_library(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _set(self, predicate: str, ids: tuple[str, ...], holds: bool) -> None:
        if predicate not in self.game.tracked:
            return
        facts = self._facts.get(predicate, frozenset())
        if (ids in facts) == holds:
            return
        if isinstance(facts, frozenset):  # still the game's own
            facts = self._facts[predicate] = set(facts)
        (facts.add if holds else facts.remove)(ids)
        self._digest ^= _digest(predicate, ids)

    def _look(self) -> None:
        """Find the commands of this state. Of operators with the same command the first one counts."""
        self._operators: dict[str, tuple[int, str, int]] = {}
        for operator in planner.applicable(self._library):
            self._operators.setdefault(self.game.command(operator[1])[0], operator)
        self._commands = tuple(sorted(self._operators))


def load(path: Path) -> Game:
    """The game of a `game.tw-pddl` file, compiled now or before.

    Raises:
        GameError: The file is no game.
        OSError: The file cannot be read.
    """
    return compiled(path.read_bytes())


def compiled(content: bytes) -> Game:
    """The game in the bytes of a `game.tw-pddl` file; raises `GameError` where they hold none."""
    with planner.lock:
        return _compiled(content)


@lru_cache(maxsize=16)  # of 2 to 3 MB each; reading one from disk again takes 10 ms
def _compiled(content: bytes) -> Game:
    source = read(content)
    rules = sha256(f"{source['pddl_domain']}\n{source['pddl_problem']}".encode()).hexdigest()
    # The engine's versions are part of the translation's path, but not of the anchor, which frozen panels hold.
    key = sha256(f"{wheel.versions()}\n{rules}".encode()).hexdigest()
    kept = storage.folder() / f"compiled-{FORMAT}" / key[:2] / f"{key}.zlib"
    try:
        parts = _read_kept(kept)
        if parts is None:
            with storage.locked(kept.parent / ".lock"):
                parts = _read_kept(kept)
                if parts is None:
                    parts = _compile(source["pddl_domain"], source["pddl_problem"])
                    storage.write(kept, zlib.compress(json.dumps(parts).encode(), 6))
        grammar = parse(source["grammar"])
    except (TaskError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # the parsers' own exceptions, of many kinds
        raise GameError(f"its rules cannot be read: {error!r}") from error
    return _game(rules, parts, grammar, tuple(source["walkthrough"] or ()))


def read(content: bytes) -> dict[str, Any]:
    """The parts of a `game.tw-pddl` file; raises `GameError` where one is missing."""
    try:
        source = json.loads(content)
    except ValueError as error:
        raise GameError(f"it is not JSON, perhaps cut off: {error}") from error
    for part in ("pddl_domain", "pddl_problem", "grammar"):
        if not isinstance(source, dict) or not isinstance(source.get(part), str):
            raise GameError(f"it has no {part!r}")
    return {"walkthrough": (), **source}


def _compile(domain: str, problem: str) -> dict[str, Any]:
    """Translate a problem and keep what playing needs, JSON-ready."""
    task, sas = planner.translate(domain, problem)
    facts = sorted({(atom.predicate, *atom.args) for atom in task.init if getattr(atom, "predicate", "=") != "="})
    return {
        "sas": sas,
        "facts": facts,
        "parameters": {
            action.name: [[each.name.strip("?"), each.type_name] for each in action.parameters]
            for action in task.actions
        },
        "read": sorted({name for condition in _conditions(task) for name in _predicates(condition)}),
    }


def _conditions(task: Any) -> Iterator[Any]:
    """All conditions of rules and goal."""
    yield task.goal
    for axiom in task.axioms:
        yield axiom.condition
    for action in task.actions:
        yield action.precondition
        for effect in action.effects:
            yield effect.condition


def _predicates(condition: Any) -> Iterator[str]:
    if hasattr(condition, "predicate"):
        yield condition.predicate
    for part in condition.parts:
        yield from _predicates(part)


def _read_kept(path: Path) -> dict[str, Any] | None:
    """The parts of a compiled game on disk; None if there are none, or broken ones."""
    try:
        return json.loads(zlib.decompress(path.read_bytes()))
    except (OSError, ValueError, zlib.error):
        return None


def _game(key: str, parts: dict[str, Any], grammar: Grammar, walkthrough: tuple[str, ...]) -> Game:
    tracked = frozenset({*parts["read"], *grammar.predicates()})
    facts: dict[str, set[tuple[str, ...]]] = {}
    for predicate, *ids in parts["facts"]:
        if predicate in tracked:
            facts.setdefault(predicate, set()).add(tuple(ids))
    digest = 0
    for predicate, holds_of in facts.items():
        for ids in holds_of:
            digest ^= _digest(predicate, ids)
    return Game(
        key=key,
        sas=parts["sas"].encode(),
        facts={predicate: frozenset(holds_of) for predicate, holds_of in facts.items()},
        digest=digest,
        parameters={action: tuple((name, kind) for name, kind in each) for action, each in parts["parameters"].items()},
        entities=_entities({id_ for _, *ids in parts["facts"] for id_ in ids}),
        grammar=grammar,
        walkthrough=walkthrough,
        tracked=tracked,
    )


def _entities(ids: set[str]) -> dict[str, Entity]:
    """ALFWorld's names: the class with a number, counted down in the order of the ids."""
    classes: dict[str, list[str]] = {}
    for id_ in sorted(ids):
        name, separator, _ = id_.partition("_bar_")
        if separator:
            classes.setdefault(name + "basin" * ("basin" in id_), []).append(id_)
    names = {id_: f"{name} {len(each) - i}" for name, each in classes.items() for i, id_ in enumerate(each)}
    return {id_: Entity(id_, names.get(id_, id_)) for id_ in sorted(ids)}


def _digest(predicate: str, ids: tuple[str, ...]) -> int:
    """A number for a fact. The exclusive or of these numbers over all true facts identifies a state."""
    return int.from_bytes(blake2b(" ".join((predicate, *ids)).encode(), digest_size=16).digest(), "big")
