"""Reading a game's grammar with TextWorld, and keeping it on disk.

Importing TextWorld and parsing takes a second or two and 50 MB in each process, although the grammars of games differ
in one sentence only.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from hashlib import sha256
from typing import Any

from openrlhf_lamer.envs.alfworld import storage, wheel
from openrlhf_lamer.envs.alfworld.grammar import (
    Enumeration,
    Expression,
    ForEach,
    Grammar,
    Query,
    Reference,
    Rule,
    Symbol,
    Text,
)

FORMAT = 1
"""Version of grammars on disk."""

_GOAL = re.compile(r'(?<="Your task is to: )[^"\\#\[\]{}|;<>\n]*(?=")')
"""The one sentence in which games differ, where it holds nothing that the grammar would expand."""


def parse(text: str) -> Grammar:
    """Read a game's grammar. Errors that TextWorld raises for a broken one are passed on."""
    goals = _GOAL.findall(text)
    if len(goals) != 1:
        return _parse(text)
    # The rest, which takes a quarter of a second to parse, is then the same text for all games.
    common = _parse(_GOAL.sub("", text))
    task = (Rule((Text(f"Your task is to: {goals[0]}"),), ()),)
    return Grammar({**common.rules, "task": task}, common.commands, common.feedback)


@lru_cache(maxsize=4)
def _parse(text: str) -> Grammar:
    key = sha256(f"{wheel.versions()}\n{text}".encode()).hexdigest()
    kept = storage.folder() / f"grammars-{FORMAT}" / f"{key}.json"
    try:
        return _from_json(json.loads(kept.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):  # not kept yet, or broken since
        grammar = _parse_uncached(text)
    storage.write(kept, json.dumps(_to_json(grammar)).encode())
    return grammar


def _parse_uncached(text: str) -> Grammar:
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
            return Expression(parsed.expression.strip())
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


def _to_json(grammar: Grammar) -> dict[str, Any]:
    def plain(symbols: tuple[Symbol, ...]) -> list[Any]:
        return [_plain(each) for each in symbols]

    return {
        "rules": {
            name: [[plain(rule.symbols), rule.condition] for rule in rules] for name, rules in grammar.rules.items()
        },
        "commands": {name: plain(symbols) for name, symbols in grammar.commands.items()},
        "feedback": {name: plain(symbols) for name, symbols in grammar.feedback.items()},
    }


def _from_json(kept: dict[str, Any]) -> Grammar:
    def symbols(plain: list[Any]) -> tuple[Symbol, ...]:
        return tuple(_from_plain(each) for each in plain)

    return Grammar(
        rules={
            name: tuple(Rule(symbols(plain), _tuples(condition)) for plain, condition in rules)
            for name, rules in kept["rules"].items()
        },
        commands={name: symbols(plain) for name, plain in kept["commands"].items()},
        feedback={name: symbols(plain) for name, plain in kept["feedback"].items()},
    )


def _plain(symbol: Symbol) -> list[Any]:
    match symbol:
        case Text(text):
            return ["text", text]
        case Reference(name):
            return ["reference", name]
        case Expression(source):
            return ["expression", source]
        case ForEach(said, query):
            return ["each", _plain(said), query]
        case Enumeration(each):
            return ["list", _plain(each)]


def _from_plain(plain: list[Any]) -> Any:
    match plain:
        case ["text", text]:
            return Text(text)
        case ["reference", name]:
            return Reference(name)
        case ["expression", source]:
            return Expression(source)
        case ["each", said, query]:
            return ForEach(_from_plain(said), _tuples(query))
        case ["list", each]:
            return Enumeration(_from_plain(each))
    raise ValueError(f"unknown symbol {plain!r}")


def _tuples(value: Any) -> Any:
    """Nested lists, as JSON has them, as nested tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
