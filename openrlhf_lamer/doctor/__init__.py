"""What has to be right before a training starts, as checks that each say what was found and what to do.

A check looks at what it is given and returns a `Check`; it never raises for what it finds, starts nothing and
writes nothing. Those that know the host or Ray are in `integration/launch/diagnosis.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is: a warning costs time or quality, an error ends the training."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        verdict: How bad it is.
        found: What there is, in a few words.
        remedy: What mends it; empty where nothing needs to be mended.
    """

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name, Verdict.OK, found)


def warning(name: str, found: str, remedy: str) -> Check:
    """A check that found what costs time or quality."""
    return Check(name, Verdict.WARNING, found, remedy)


def error(name: str, found: str, remedy: str) -> Check:
    """A check that found what ends a training."""
    return Check(name, Verdict.ERROR, found, remedy)


def told(name: str, verdict: Verdict, problem: Exception) -> Check:
    """A check from an exception of ours: such messages say what is wrong, then `; ` and what to do."""
    found, _, remedy = str(problem).rpartition("; ")
    return Check(name, verdict, found, remedy) if found else Check(name, verdict, remedy, "see the message")
