"""Code that this package's `.pth` line runs at interpreter start, in two kinds of process only.

1. `python -m openrlhf.cli.train_ppo_ray ...` with one of our flags, which the host would refuse: the process is
   replaced by `python -m openrlhf_lamer.cli.train_ppo_ray ...` with the same options and arguments.
2. A process that carries `OPENRLHF_LAMER_CPU`: the CPU mode is installed before anything of the host is imported.
   There is no other way to reach Ray's workers and vLLM's child processes.

The `.pth` line itself tests for both with modules that the interpreter has already loaded, so that other processes do
not even import this module; `OPENRLHF_LAMER_NO_PTH=1` switches it off. This module uses only the standard library, and
no error here may keep an interpreter from starting, with one exception: CPU mode on a machine with CUDA.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

HOST_MODULE = "openrlhf.cli.train_ppo_ray"
OUR_MODULE = "openrlhf_lamer.cli.train_ppo_ray"
ESTIMATOR_FLAG = "--algo.advantage.estimator"


class Invocation(NamedTuple):
    """A `python [options] -m module [arguments]` command line, taken apart."""

    options: list[str]
    module: str
    arguments: list[str]


def run() -> None:
    """Do what this process needs, if anything. Called by the `.pth` line."""
    try:
        _run()
    except Exception:
        print("openrlhf-lamer: its start-up hook failed; this process goes on without it.", file=sys.stderr)
        traceback.print_exc()


def _run() -> None:
    # `sys.argv` does not exist yet while site runs; `orig_argv` does, and has the interpreter's own options too.
    command = redirected(sys.orig_argv)
    if command is not None:
        sys.stderr.flush()
        os.execv(command[0], command)
    if os.environ.get("OPENRLHF_LAMER_CPU", "0") not in ("", "0"):
        from openrlhf_lamer.integration import cpu

        try:
            cpu.install()
        except cpu.CudaPresentError as error:
            _refuse(str(error))


def redirected(argv: Sequence[str]) -> list[str] | None:
    """The command to run in place of `argv`; None unless that is the host's command with a flag of ours."""
    invocation = parse_command(argv)
    if invocation is None or invocation.module != HOST_MODULE or not has_our_flag(invocation.arguments):
        return None
    return [sys.executable or argv[0], *invocation.options, "-m", OUR_MODULE, *invocation.arguments]


def has_our_flag(arguments: Sequence[str]) -> bool:
    """Whether `arguments` contain a flag that this package knows and the host does not."""
    previous = ""
    for argument in arguments:
        flag, _, value = argument.partition("=")
        if flag == "--agent_func" or flag.startswith("--lamer."):
            return True
        if flag == ESTIMATOR_FLAG and value.startswith("lamer_"):
            return True
        if previous == ESTIMATOR_FLAG and argument.startswith("lamer_"):
            return True
        previous = argument
    return False


def parse_command(argv: Sequence[str]) -> Invocation | None:
    """Take a `python -m` command apart as the interpreter does; None if it runs a script, a string or stdin."""
    index = 1
    while index < len(argv):
        option = argv[index]
        if not option.startswith("-") or option in ("-", "--"):
            return None
        if option.startswith("--"):
            index += 2 if option == "--check-hash-based-pycs" else 1
            continue
        for position, letter in enumerate(option[1:], start=1):  # short options may be joined: -um, -Werror
            rest = option[position + 1 :]
            if letter == "c":
                return None
            if letter == "m":
                options = [*argv[1:index], *([option[:position]] if position > 1 else [])]
                following = [*([rest] if rest else []), *argv[index + 1 :]]
                return Invocation(options, following[0], following[1:]) if following else None
            if letter in "WX":
                index += 0 if rest else 1
                break
        index += 1
    return None


def _refuse(message: str) -> NoReturn:
    """End the process at once. While site runs, SystemExit would come out as a crash of the interpreter."""
    print(f"openrlhf-lamer: {message}", file=sys.stderr, flush=True)
    os._exit(1)
