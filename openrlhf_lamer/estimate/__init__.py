"""Estimates before a training: tokens, rows, optimizer steps, GPU memory and seconds, computed and not measured.

`shapes` describes the models, `lengths` the trials, `work` the work of a rollout and its update, and `memory` the
contents of a GPU. Nothing here knows the host: `integration.launch.sizing` turns a command line into a `Run`.
"""

from openrlhf_lamer import LamerError


class EstimateError(LamerError, ValueError):
    """Something that an estimate needs is unknown; the message names it, and the remedy."""
