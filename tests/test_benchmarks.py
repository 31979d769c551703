"""Benchmarks run, and the properties they watch hold at a small size."""

from __future__ import annotations

import importlib
import json
import random
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BENCHMARK = str(BENCHMARKS / "envs.py")


def run(*arguments: str, file: str = "envs.py", seconds: float = 100) -> str:
    command = [sys.executable, str(BENCHMARKS / file), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_speed_and_memory_are_measured() -> None:
    table = run("minesweeper", "--tasks", "5", "--live", "10")
    for text in ("size=6 mines=3", "size=10 mines=10", "reset", "again", "step", "p99", "KB live"):
        assert text in table


@pytest.mark.parametrize("name", ["minesweeper", "sokoban"])
def test_resets_leave_nothing_behind(name: str) -> None:
    assert "flat" in run(name, "--soak", "2000")


def test_prompts_of_every_context_are_measured_against_the_default(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    asked = "--env", "minesweeper", "--tasks", "2", "--reply", "150", "--max-new-tokens", "600"
    table = run(*asked, "--tokenizer", str(tmp_path), file="prompts.py")
    rows = {line.split("|")[2].strip(): line.split("|")[3:-1] for line in table.splitlines()[2:]}
    assert list(rows) == ["turn", "episode", "trial"]
    played = {context: int(row[0]) for context, row in rows.items()}
    assert len(set(played.values())) == 1
    longest = [int(row[3].replace(",", "")) for row in rows.values()]
    # A chat holds the replies before: it grows by at least as much as they take.
    assert longest[2] > longest[1] > longest[0]
    assert longest[2] > 150 * (played["trial"] // 2 - 1)


def test_rollouts_take_as_long_as_computed_by_hand() -> None:
    pytest.importorskip("openrlhf")
    code = """
import asyncio, collections, json, sys
sys.path.insert(0, sys.argv[1])
from rollouts.measures import async_cost, gain, sync_cost
from rollouts.recorded import Size
from rollouts.simulated import Simulated

async def joined(generate):
    async def late():
        await asyncio.sleep(2.5)
        await generate((), 5)
        return asyncio.get_running_loop().time()
    second = asyncio.create_task(late())
    await generate((), 10)
    return asyncio.get_running_loop().time(), await second

a, b = 0.01, 0.0005
size = Size(4, 4, turns=4, success=0.4, median=60)
stage, busy, idle = Simulated(a, b), Simulated(0.0, b), Simulated(a, 0.0)
records = size.records(0)
rounds = collections.defaultdict(list)
for record in records:
    for its_round, tokens in zip(record.rounds, record.tokens, strict=True):
        rounds[its_round].append(tokens)
sampled = sum(map(sum, rounds.values()))
(free, locked), sync, later = gain(stage, size, 0), sync_cost(busy, size, 0), async_cost(stage, size, 0)
def ratio(stage):
    free, locked = gain(stage, size, 0)
    return locked / free
print(json.dumps({
    "joined": Simulated(1.0, 1.0).run(joined)[0],
    "free": [free, a * max(sum(record.tokens) for record in records) + b * sampled],
    "lockstep": [locked, sum(a * max(each) + b * sum(each) for each in rounds.values())],
    "busy": [sync.ratio, sync.limit], "waits": ratio(idle),
    "full": ratio(busy), "async": [later.ratio, later.limit], "idle": [later.rl.idle, later.lamer.idle],
}))
"""
    result = subprocess.run(
        [sys.executable, "-c", code, str(BENCHMARKS)], capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["joined"] == pytest.approx([25.0, 19.0])
    for name in ("free", "lockstep", "busy"):
        measured, expected = found[name]
        assert measured == pytest.approx(expected), name
    assert found["full"] == pytest.approx(1.0)
    assert found["waits"] > 1.5
    ratio, limit = found["async"]
    assert 0.95 * limit < ratio < 2 * limit
    assert all(0 <= share < 0.6 for share in found["idle"])


def test_rollouts_are_compared_on_the_same_tokens(tmp_path: Path) -> None:
    pytest.importorskip("openrlhf")
    small = "--tasks 2 --samples 2 --turns 2 --median 40 --seeds 1".split()
    output = run(*small, "--out", str(tmp_path / "idle.png"), file="rollout.py")
    for text in ("100:1", "every trial plays all its episodes", "half of the attempts succeed"):
        assert text in output
    assert (tmp_path / "idle.png").stat().st_size > 10_000


def test_the_event_loop_is_watched_while_trials_play() -> None:
    pytest.importorskip("transformers")
    table = run("--env", "sokoban", "--trials", "16", "--tasks", "2", file="loop.py")
    for text in ("render", "tokenise", "decode", "reset", "step", "lag p50 ms", "in threads"):
        assert text in table


def test_anchors_by_similarity_are_fewer_than_texts() -> None:
    table = run("--turns", "400", file="anchors.py")
    rows = [[int(cell.replace(",", "")) for cell in line.split("│")[2:4]] for line in table.splitlines() if "│" in line]
    assert [texts for texts, _ in rows] == sorted(texts for texts, _ in rows)
    assert rows[-1][0] > 300
    # Ten templates a task, of which a page keeps 9 words in 10.
    assert all(groups <= texts for texts, groups in rows)
    assert rows[-1][1] < rows[-1][0] / 3


def test_a_batch_takes_some_bytes_a_token_in_the_trainer() -> None:
    pytest.importorskip("openrlhf")
    table = run("--trials", "64", file="memory.py")
    taken = {line.split("│")[1].strip(): line.split("│")[2:5] for line in table.splitlines() if "│" in line}
    assert int(taken["at the most"][2]) < 70


@pytest.mark.timeout(300)
def test_the_update_runs_each_token_once_and_its_loss_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    figures = json.loads(
        run("--quick", "--json", "--env", "minesweeper", "--context", "turn", file="update.py", seconds=280)
    )
    padded, packed, forest = figures
    assert [each["variant"] for each in figures] == ["padded", "packed", "forest"]
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    recorded = importlib.import_module("updates.recorded")
    rows = [tuple(ids.tolist()) for ids in recorded.recorded("minesweeper", "turn", 1, recorded.build_chat()).ids]
    # The trial's distinct tokens are below the limit, so it is one micro-batch.
    assert forest["tokens"] == len({row[:end] for row in rows for end in range(1, len(row) + 1)})
    assert packed["tokens"] == sum(map(len, rows))
    # The host shuffles rows before it pads them, 8 at the most.
    shuffled = [len(rows[at]) for at in np.random.default_rng(0).permutation(len(rows))]
    micro_batches = np.array_split(shuffled, -(-len(rows) // 8))
    assert padded["tokens"] == sum(len(own) * max(own) for own in micro_batches)
    assert padded["tokens"] > 2 * forest["tokens"]
    for figure in ("loss", "gradient"):
        assert packed[figure] == pytest.approx(padded[figure], rel=1e-4)
        assert forest[figure] == pytest.approx(padded[figure], rel=1e-4)


def test_growth_is_noticed(tmp_path: Path) -> None:
    leaky = (
        "import os, runpy, sys, tempfile\n"
        "sys.path.insert(0, os.path.dirname(sys.argv[1]))\n"
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


@pytest.mark.timeout(300)
def test_trials_leave_nothing_behind_in_any_process() -> None:
    """The short version of `make soak`."""
    pytest.importorskip("openrlhf")
    pytest.importorskip("vllm")
    output = run("--trials", "512", file="soak.py", seconds=280)
    assert output.count("flat") == 3
    counted = re.search(r"512 trials .*: (\d+) failed, (\d+) tries again, ([\d,]+) episodes, ([\d,]+) rows", output)
    assert counted is not None
    failed, again, episodes, rows = (int(number.replace(",", "")) for number in counted.groups())
    assert failed <= 20
    assert 1 <= again <= 150
    assert 2 * 512 < episodes <= 3 * 512
    assert rows > 3 * episodes


def test_a_slope_is_told_from_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdict of a soak: a leak on a baseline that drifts and jumps, in a short run and a long one."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    growth = runpy.run_path(str(BENCHMARKS / "soak.py"))["Growth"]
    rng = random.Random(0)
    for batches, leak in ((16, 100.0), (600, 3.0)):
        trials = [32 * (i + 1) for i in range(batches)]
        flat = [500 + 40 * (i > 1) + rng.uniform(-3, 3) + 20 * (i == batches // 2) for i in range(batches)]
        leaky = [level + leak * number / 1000 for level, number in zip(flat, trials, strict=True)]
        assert not growth.of(trials, flat).exceeds
        assert growth.of(trials, leaky).exceeds
        assert growth.of(trials, leaky).slope == pytest.approx(leak, rel=0.2)
