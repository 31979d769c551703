"""LaMer for OpenRLHF: meta-reinforcement learning for language agents.

An agent plays several episodes of one task in a row, reflects on each failure,
keeps a memory between episodes, and is trained on the discounted return across
them (arXiv 2512.16848). Importing this package is light: nothing of the GPU
stack is loaded before it is used.
"""

from typing import ClassVar

__version__ = "0.2.0"


class LamerError(Exception):
    """Base of the errors that this package raises; the message says what is wrong and what to do about it."""

    exit_code: ClassVar[int] = 2
    """Exit code of a command: 2 if its input cannot work, 1 if a run broke."""
