"""Checks before a training starts; each says what was found and what to do.

A check looks at its arguments and returns a `Check`; it raises no error for a bad finding, starts nothing and
writes nothing. Those that know the host or Ray are in `integration/launch/diagnosis.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Severity of a finding: a warning costs time or quality, an error ends the training."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes:
        name: Subject of the check.
        verdict: Severity.
        found: Finding, in a few words.
        remedy: Fix for it; empty if nothing is wrong.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Verdict.OK, found)


def warning(name: str, found: str, remedy: str) -> Check:
    """A check that found something that costs time or quality."""
    return Check(name, Verdict.WARNING, found, remedy)


def error(name: str, found: str, remedy: str) -> Check:
    """A check that found something that ends a training."""
    return Check(name, Verdict.ERROR, found, remedy)


def told(name: str, verdict: Verdict, problem: Exception) -> Check:
    """A check from an exception of ours, whose message is the problem, `; ` and the remedy."""
    found, _, remedy = str(problem).rpartition("; ")
    return Check(name, verdict, found, remedy) if found else Check(name, verdict, remedy, "see the message")
