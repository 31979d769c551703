"""Runs the training command up to the end of its checks."""

from __future__ import annotations

import os
import subprocess
import sys


def command(arguments: list[str], **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openrlhf_lamer.cli.train_ppo_ray", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **env},
        check=False,
    )
