"""What a game says: TextWorld's grammar of sentences, read by TextWorld and expanded here.

TextWorld expands a sentence by copying the whole context for every symbol in it and parses
each condition anew, which takes most of a step. The sentences are the same here; they are
parsed once and expanded without copies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType
from typing import Any

Facts = Mapping[str, "set[tuple[str, ...]] | frozenset[tuple[str, ...]]"]
"""The true facts: what each predicate holds of."""
Placeholder = tuple[str, str]
"""A name and a type, as in `r:receptacle`."""
Query = tuple[tuple[str, tuple[Placeholder, ...]], ...]
"""Predicates over placeholders, all of which must hold."""
Binding = dict[Placeholder, str]
"""What the placeholders stand for, by id."""


@dataclass(frozen=True, slots=True)
class Entity:
    """What expressions of the grammar see of a thing, such as `{o.indefinite + ' ' + o.name}`."""

    id: str
    name: str
    definite: str = "the"
    indefinite: str = "a"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Text:
    """Said as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Reference:
    """Replaced by the first rule of that name whose condition holds."""

    name: str


@dataclass(frozen=True, slots=True)
class Expression:
    """A Python expression over the entities in sight."""

    code: CodeType


@dataclass(frozen=True, slots=True)
class ForEach:
    """An expression or reference, said once for each binding that the query finds, in their order."""

    said: Reference | Expression
    query: Query


@dataclass(frozen=True, slots=True)
class Enumeration:
    """The same, with commas and an "and" between."""

    each: ForEach


Symbol = Text | Reference | Expression | ForEach | Enumeration


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to expand a reference."""

    symbols: tuple[Symbol, ...]
    condition: Query


@dataclass(frozen=True)
class Grammar:
    """All that a game can say.

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
        """The text of `symbols`, where the placeholders stand for what `binding` says."""
        return "".join(self._expand(symbols, _Scope(facts, binding, entities)))

    def _expand(self, symbols: Sequence[Symbol], scope: _Scope) -> Iterator[str]:
        for symbol in symbols:
            match symbol:
                case Text(text):
                    yield text
                case Reference():
                    yield from self._refer(symbol, scope)
                case Expression(code):
                    yield str(eval(code, {"__builtins__": {}}, scope.names))
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
    """The facts and what the placeholders stand for, at one place of a sentence."""

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


_GOAL = re.compile(r'(?<="Your task is to: )[^"\\#\[\]{}|;<>\n]*(?=")')
"""The one sentence in which games differ, where it holds nothing that the grammar would expand."""


def parse(text: str) -> Grammar:
    """Read a game's grammar. Whatever TextWorld raises for a broken one comes through."""
    goals = _GOAL.findall(text)
    if len(goals) != 1:
        return _parse(text)
    # So that the rest, which takes a quarter of a second to parse, is the same text for all games.
    common = _parse(_GOAL.sub("", text))
    task = (Rule((Text(f"Your task is to: {goals[0]}"),), ()),)
    return Grammar({**common.rules, "task": task}, common.commands, common.feedback)


@lru_cache(maxsize=4)
def _parse(text: str) -> Grammar:
    from textworld.envs.pddl import textgen
    from textworld.envs.pddl.logic import GameLogic

    def symbols(text: str) -> tuple[Symbol, ...]:
        return _symbols(textgen._parse_and_convert(text, rule_name="symbols"))

    logic = GameLogic(domain="", grammar=text)
    return Grammar(
        rules={
            name: tuple(Rule(_symbols(rule.rhs), _query(rule.condition)) for rule in rules)
            for name, rules in logic.grammar._rules.items()
        },
        commands={name: symbols(action.template) for name, action in logic.actions.items()},
        feedback={name: symbols(action.feedback_rule) for name, action in logic.actions.items()},
    )


def _symbols(parsed: list[Any]) -> tuple[Symbol, ...]:
    return tuple(_symbol(each) for each in parsed)


def _symbol(parsed: Any) -> Any:
    from textworld.envs.pddl import textgen

    match parsed:
        case textgen.TerminalSymbol():
            return Text(parsed.symbol)
        case textgen.NonterminalSymbol():
            return Reference(parsed.symbol)
        case textgen.EvalSymbol():
            return Expression(compile(parsed.expression.strip(), "<grammar>", "eval"))
        case textgen.ConditionalSymbol():
            return ForEach(_symbol(parsed.expression), _query(parsed.given))
        case textgen.ListSymbol():
            return Enumeration(_symbol(parsed.symbol))
    raise TypeError(f"unknown symbol of the grammar: {parsed!r}")


@lru_cache(maxsize=256)
def _query(text: str | None) -> Query:
    from textworld.logic import Rule as Conjunction

    if not text:
        return ()
    predicates = Conjunction.parse_conjunctive_query(text).preconditions
    return tuple((each.name, tuple((p.name, p.type) for p in each.parameters)) for each in predicates)
