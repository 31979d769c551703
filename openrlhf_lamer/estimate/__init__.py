"""Estimates before a training: tokens, rows, optimizer steps, GPU memory and seconds, computed and not measured.

`shapes` has the models, `lengths` the trials, `work` what a rollout and its update come to, and `memory` what lies on a
GPU. Nothing here knows the host: `integration.launch.sizing` makes a `Run` of a command line.
"""

from openrlhf_lamer import LamerError


class EstimateError(LamerError, ValueError):
    """Something that an estimate needs is unknown; the message names it, and the remedy."""
