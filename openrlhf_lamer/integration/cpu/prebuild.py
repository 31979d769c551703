"""Compile DeepSpeed's extensions ahead of the first run, which would otherwise spend a minute or two on it.

Run as `python -m openrlhf_lamer.integration.cpu.prebuild`; what is compiled already is only loaded.
"""

from __future__ import annotations

from openrlhf_lamer.integration.cpu.driver import enter_driver


def compile_extensions() -> None:
    """Compile what DeepSpeed would when it first sets a model up on the CPU: Adam, and sums in shared memory."""
    enter_driver()
    from deepspeed.ops.op_builder.cpu import FusedAdamBuilder, ShareMemCommBuilder

    for builder in (FusedAdamBuilder(), ShareMemCommBuilder()):
        builder.load(verbose=False)


if __name__ == "__main__":
    compile_extensions()
