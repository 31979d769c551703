"""Benchmarks run, and what they watch holds at a small size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BENCHMARK = str(BENCHMARKS / "envs.py")


def run(*arguments: str, file: str = "envs.py") -> str:
    result = subprocess.run(
        [sys.executable, str(BENCHMARKS / file), *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_speed_and_memory_are_measured() -> None:
    table = run("minesweeper", "--tasks", "5", "--live", "10")
    for text in ("size=6 mines=3", "size=10 mines=10", "reset", "again", "step", "p99", "KB live"):
        assert text in table


@pytest.mark.parametrize("name", ["minesweeper", "sokoban"])
def test_resets_leave_nothing_behind(name: str) -> None:
    assert "flat" in run(name, "--soak", "2000")


def test_a_chat_an_episode_processes_less_than_half_of_the_tokens_of_a_prompt_a_turn() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    table = run(
        "--env", "sokoban", "--turns", "1", "7", "--trials", "1", "--runs", "1", "--hidden", "64", file="rows.py"
    )
    one, seven = (line.split() for line in table.splitlines()[-2:])
    assert (one[0], seven[0], seven[1]) == ("1", "7", "1")
    sampled, turn, episode = (int(number.replace(",", "")) for number in seven[2:5])
    assert 0.97 < sampled / (23 * 150) < 1.03
    assert sampled < episode <= 0.45 * turn
    assert float(one[5]) > float(seven[5])


def test_growth_is_noticed(tmp_path: Path) -> None:
    leaky = (
        "import runpy, sys, tempfile\n"
        "from openrlhf_lamer import envs\n"
        "from openrlhf_lamer.envs.minesweeper import MineSweeper\n"
        "benchmark = runpy.run_path(sys.argv[1])\n"
        "kept = []\n"
        "class Leaky(MineSweeper):\n"
        "    def reset(self, task):\n"
        "        kept.append(bytearray(20_000))\n"
        "        file = tempfile.NamedTemporaryFile()\n"
        "        file.write(bytes(9_000))\n"
        "        file.flush()\n"
        "        kept.append(file)\n"
        "        return super().reset(task)\n"
        "envs.register('leaky', Leaky)\n"
        "Leaky.name = 'leaky'\n"
        "before, after = benchmark['soak']('leaky', 900)\n"
        "print(*(late > 1.05 * early + benchmark['SLACK'] for early, late in zip(before, after)))\n"
    )
    result = subprocess.run([sys.executable, "-c", leaky, BENCHMARK], capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["True", "True"], result.stderr


def test_evaluation_keeps_its_slots_busy() -> None:
    table = run("--trials", "40", "--concurrency", "8", "--milliseconds", "20", file="eval.py")
    slots, milliseconds, _, busy, whole, asking = table.splitlines()[-2].replace("│", " ").split()
    assert (slots, milliseconds) == ("8", "20")
    assert float(busy[:-1]) > 90
    assert 0 < float(asking[:-1]) <= float(busy[:-1]) <= 100
    assert 0 < float(whole[:-1]) <= 100
