"""Sentences of a game, from a grammar like TextWorld's, expanded to the same text.

TextWorld expands a sentence by copying the whole context for every symbol in it and parses
each condition again, which takes most of a step. Here they are parsed once, by TextWorld (see
`sentences`), and expanded without copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType

Facts = Mapping[str, "set[tuple[str, ...]] | frozenset[tuple[str, ...]]"]
"""The true facts: by predicate, the ids that it holds for."""
Placeholder = tuple[str, str]
"""A name and a type, as in `r:receptacle`."""
Query = tuple[tuple[str, tuple[Placeholder, ...]], ...]
"""Predicates over placeholders, all of which must hold."""
Binding = dict[Placeholder, str]
"""Ids of the things that placeholders stand for."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing as expressions of the grammar see it, such as `{o.indefinite + ' ' + o.name}`."""

    id: str
    name: str
    definite: str = "the"
    indefinite: str = "a"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is said unchanged."""

    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Replaced by the first rule of that name whose condition holds."""

    name: str


@dataclass(frozen=True, slots=True)
class Expression:
    """A Python expression over the entities in sight."""

    source: str

    @property
    def code(self) -> CodeType:
        """The expression, compiled."""
        return _compiled(self.source)


@dataclass(frozen=True, slots=True)
class ForEach:
    """An expression or reference, said once for each binding that the query finds, in their order."""

    said: Reference | Expression
    query: Query


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The texts of a `ForEach`, with commas and an "and" between."""

    each: ForEach


Symbol = Text | Reference | Expression | ForEach | Enumeration


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to expand a reference."""

    symbols: tuple[Symbol, ...]
    condition: Query


@dataclass(frozen=True)
class Grammar:
    """All sentences of a game.

    Attributes:
        rules: Expansions of each reference, the first that applies counts.
        commands: The command of each action.
        feedback: The answer to each action.
    """

    rules: Mapping[str, tuple[Rule, ...]]
    commands: Mapping[str, tuple[Symbol, ...]]
    feedback: Mapping[str, tuple[Symbol, ...]]

    def predicates(self) -> set[str]:
        """The predicates that some sentence depends on."""
        found: set[str] = set()

        def collect(symbols: Sequence[Symbol]) -> None:
            for symbol in symbols:
                each = symbol.each if isinstance(symbol, Enumeration) else symbol
                if isinstance(each, ForEach):
                    found.update(name for name, _ in each.query)

        for rules in self.rules.values():
            for rule in rules:
                collect(rule.symbols)
                found.update(name for name, _ in rule.condition)
        for symbols in (*self.commands.values(), *self.feedback.values()):
            collect(symbols)
        return found

    def say(self, symbols: Sequence[Symbol], facts: Facts, binding: Binding, entities: Mapping[str, Entity]) -> str:
        """The text of `symbols` under a binding of the placeholders."""
        return "".join(self._expand(symbols, _Scope(facts, binding, entities)))

    def _expand(self, symbols: Sequence[Symbol], scope: _Scope) -> Iterator[str]:
        for symbol in symbols:
            match symbol:
                case Text(text):
                    yield text
                case Reference():
                    yield from self._refer(symbol, scope)
                case Expression():
                    yield str(eval(symbol.code, {"__builtins__": {}}, scope.names))
                case ForEach(said, query):
                    for bound in scope.solve(query):
                        yield from self._expand((said,), scope.within(bound))
                case Enumeration(ForEach(said, query)):
                    items = ["".join(self._expand((said,), scope.within(bound))) for bound in scope.solve(query)]
                    yield from self._enumerate(items, scope)

    def _refer(self, reference: Reference, scope: _Scope) -> Iterator[str]:
        for rule in self.rules[reference.name]:
            if not rule.condition or next(scope.solve(rule.condition), None) is not None:
                return self._expand(rule.symbols, scope)
        raise KeyError(f"no rule of the grammar applies for {reference.name!r}")

    def _enumerate(self, items: list[str], scope: _Scope) -> Iterator[str]:
        if not items:
            yield from self._refer(Reference("list_empty"), scope)
        for place, item in enumerate(items):
            if place:
                last = place == len(items) - 1
                yield from self._refer(Reference("list_last_separator" if last else "list_separator"), scope)
            yield item


@dataclass(slots=True)
class _Scope:
    """Facts and binding of the placeholders, at one place of a sentence."""

    facts: Facts
    binding: Binding
    entities: Mapping[str, Entity]
    names: dict[str, Entity] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {name: self.entities[id_] for (name, _), id_ in self.binding.items()}

    def within(self, binding: Binding) -> _Scope:
        return _Scope(self.facts, binding, self.entities)

    def solve(self, query: Query) -> Iterator[Binding]:
        """The bindings that make `query` true, in the order of the ids; different placeholders differ."""
        return self._solve(query, self.binding)

    def _solve(self, query: Query, binding: Binding) -> Iterator[Binding]:
        if not query:
            yield binding
            return
        (name, placeholders), rest = query[0], query[1:]
        candidates = self.facts.get(name, ())
        if all(placeholder in binding for placeholder in placeholders):
            if tuple(binding[placeholder] for placeholder in placeholders) in candidates:
                yield from self._solve(rest, binding)
            return
        known = [(i, binding[each]) for i, each in enumerate(placeholders) if each in binding]
        for ids in sorted(ids for ids in candidates if all(ids[i] == id_ for i, id_ in known)):
            bound = dict(binding)
            taken = set(binding.values())
            for placeholder, id_ in zip(placeholders, ids, strict=True):
                if bound.get(placeholder, id_) != id_ or (placeholder not in bound and id_ in taken):
                    break
                bound[placeholder] = id_
                taken.add(id_)
            else:
                yield from self._solve(rest, bound)


@lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    return compile(source, "<grammar>", "eval")
