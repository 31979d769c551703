"""Workers that Ray kills because their machine is low on memory: Ray's message about it, cut to a line.

Ray kills the newest worker first, which need not be the one that took the memory. So the line names both.
"""

from __future__ import annotations

import re

from openrlhf_lamer import LamerError

LOW = "running low on memory"
"""Words of Ray's message in every version, and wherever it is quoted, as in the error of a task that waited for a
killed worker."""

TAKERS = 5
"""Processes that are named, those with most memory first."""

REMEDY = (
    "end other work on that machine; or ask for fewer engines or actors (--vllm.num_engines, "
    "--actor.num_gpus_per_node), smaller micro-batches (--train.max_tokens_per_gpu) or fewer trials at once "
    "(--lamer.max_concurrent_trials); or let Ray use more than 95% of the memory (RAY_memory_usage_threshold)"
)

_NODE = re.compile(r"IP: ([^,\s]+),.*?was ([\d.]+)GB / ([\d.]+)GB")
_KILLED = re.compile(r"task name=([^,]+?)(?:\.__init__)?, .*?pid=(\d+), actual memory used=([\d.]+)GB")
_TAKER = re.compile(r"(\d+)\t([\d.]+)\t(.+)")


class WorkerKilledError(LamerError, RuntimeError):
    """A worker was killed for memory; the message says what took it, and how the run goes on."""

    exit_code = 1


def killed_for_memory(error: BaseException) -> str | None:
    """A line on what was killed and where, what had the memory, and the remedy; None for another error."""
    _, low, text = str(error).partition(LOW)
    if not low:
        return None
    killed = ", ".join(f"{name} (process {pid}, {size} GB)" for name, pid, size in _KILLED.findall(text))
    said = f"Ray killed {killed or 'a worker'}, because its machine was low on memory"
    if node := _NODE.search(text):
        address, used, total = node.groups()
        said = said.replace("its machine", f"the machine {address}") + f" ({used} of {total} GB in use)"
    _, _, listed = text.partition("memory users:")
    takers = [match.groups() for line in re.split(r"\n|, (?=\d+\t)", listed) if (match := _TAKER.match(line.strip()))]
    if takers:
        # Ray's advice follows the last one.
        shown = (
            f"{size} GB {command.split(', Refer to')[0]} (process {pid})" for pid, size, command in takers[:TAKERS]
        )
        said += f". Most of it had {'; '.join(shown)}"
    return f"{said}. Remedy: {REMEDY}"
