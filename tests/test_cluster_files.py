"""The files for clusters: their syntax, and that their training commands pass the launcher's checks."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from openrlhf_lamer.tasks import seeded_tasks, write_dataset

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration.launch import launcher

yaml = pytest.importorskip("yaml")

FOLDER = Path(__file__).parent.parent / "scripts" / "cluster"
SCRIPTS = ("ray-job.sh", "slurm.sbatch")


def manifest() -> dict[str, Any]:
    return yaml.safe_load((FOLDER / "kuberay.yaml").read_text())


def flags(file: str, data: Path) -> list[str]:
    """The arguments of a file's training command, with its data at `data`."""
    text = manifest()["spec"]["entrypoint"] if file.endswith(".yaml") else (FOLDER / file).read_text()
    command = text.replace("\\\n", " ").split("-m openrlhf_lamer.cli.train_ppo_ray ")[1].splitlines()[0]
    command = command.replace("$DATA", str(data)).replace("/shared/data/sokoban", str(data))
    return shlex.split(command.replace("$MODEL", "Qwen/Qwen3-4B").replace("$RUNS", "runs"))


@pytest.mark.parametrize("file", SCRIPTS)
def test_the_syntax_of_scripts(file: str) -> None:
    subprocess.run(["bash", "-n", FOLDER / file], check=True)


@pytest.mark.parametrize("file", [*SCRIPTS, "kuberay.yaml"])
def test_training_commands_pass_the_launchers_checks(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    write_dataset(tmp_path / "train.jsonl", seeded_tasks("sokoban", "train", 32))
    plan = launcher.prepare(flags(file, tmp_path))
    assert plan.estimator == "lamer_gigpo"
    assert plan.gpus == 16
    assert plan.line["ckpt.load_enable"]
    assert plan.line["ckpt.save_steps"] > 0


def test_the_manifest_asks_for_what_training_needs() -> None:
    cluster = manifest()["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    (worker,) = workers["template"]["spec"]["containers"]
    assert workers["replicas"] * int(worker["resources"]["limits"]["nvidia.com/gpu"]) == 16
    assert cluster["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    pins = (FOLDER.parent.parent / "requirements" / "cpu.txt").read_text()
    assert f"ray[default]=={cluster['rayVersion']}\n" in pins


def test_slurm_asks_for_what_training_needs() -> None:
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\d+)$", (FOLDER / "slurm.sbatch").read_text(), re.MULTILINE))
    assert int(asked["nodes"]) * int(asked["gpus-per-node"]) == 16


def test_the_job_is_submitted_as_one_command(tmp_path: Path) -> None:
    (tmp_path / "ray").write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "ray").chmod(0o755)
    script = ["bash", str(FOLDER / "ray-job.sh")]
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "DATA": "/a b"}
    assert subprocess.run(script, env=env, capture_output=True, check=False).returncode != 0
    env["RAY_API_SERVER_ADDRESS"] = "http://head:8265"
    told = json.loads(subprocess.run(script, env=env, capture_output=True, check=True, text=True).stdout)
    assert told[:5] == ["job", "submit", "--address", "http://head:8265", "--"]
    assert "/a b/train.jsonl" in told
