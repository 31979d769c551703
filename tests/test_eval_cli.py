"""`openrlhf-lamer eval` as it is typed, with scripted players."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner

from openrlhf_lamer import envs, manifest, panels
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.evaluation.methods import METHODS
from openrlhf_lamer.evaluation.run import read_trials
from openrlhf_lamer.records import Phase
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.text_chat import TextChat

SMALL = ("--tasks", "minesweeper/3-mines", "--first", "6")


def evaluate(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["eval", *arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def wins(env: TextEnv, tasks: list, max_turns: int) -> int:
    """Tasks that the oracle wins in one attempt, played without the trial loop."""
    won = 0
    for task in tasks:
        env.reset(task)
        for _ in range(max_turns):
            step = env.step(env.oracle() or "")
            if step.terminated or step.truncated:
                won += step.won
                break
    return won


@pytest.mark.parametrize(
    ("panel", "number"),
    [("sokoban/2-boxes", 40), ("minesweeper/3-mines", 128), ("webshop/eval", 40), ("alfworld/generated/id", 6)],
)
def test_scripted_players_on_every_panel(panel: str, number: int, tmp_path: Path, need: Callable[[str], None]) -> None:
    """The oracle wins what a plain loop over the environment wins, at the first attempt; a random player far less."""
    found = panels.load(panel)
    need(found.env)
    tasks = found.tasks()[:number]
    agent, _ = load_agent(f"openrlhf_lamer.agents.{found.env}")
    env = envs.make(found.env, **found.options)
    expected = wins(env, tasks, agent.evaluated().max_turns)
    env.close()
    shown = {}
    for player in ("oracle", "random"):
        out = str(tmp_path / player)
        shown[player] = json.loads(
            evaluate("--tasks", panel, "--first", str(number), "--player", player, "--out", out, "--json")
        )
        assert shown[player]["failed"] == 0
        assert shown[player]["tasks"] == shown[player]["trials"] == number
    assert shown["oracle"]["success@1"]["value"] == pytest.approx(expected / number)
    assert expected > 0.5 * number
    assert shown["random"]["success@3"]["value"] < 0.5 * expected / number


def longest(tmp_path: Path, *arguments: str) -> int:
    """Turns of the longest attempt by a random player, which must be as many as the run's settings say."""
    evaluate("--player", "random", "--out", str(tmp_path), *arguments)
    turns = max(len(episode.turns) for trial in read_trials(tmp_path) for episode in trial.episodes)
    assert json.loads((tmp_path / "run.json").read_text())["settings"]["config"]["max_turns"] == turns
    return turns


def test_an_attempt_has_the_turns_of_the_agents_evaluations_and_the_users_win(tmp_path: Path) -> None:
    for given, name in (("max_turns=1, eval_turns=3", "patient.py"), ("max_turns=2", "plain.py")):
        (tmp_path / name).write_text(
            "from openrlhf_lamer.agents import Agent, host_seam\n"
            f"agent = Agent('minesweeper', {given})\n__getattr__ = host_seam(agent)\n"
        )
    patient = (*SMALL, "--agent-func", str(tmp_path / "patient.py"))
    assert longest(tmp_path / "own", *patient) == 3
    assert longest(tmp_path / "given", *patient, "--max-turns", "4") == 4
    assert longest(tmp_path / "plain", *SMALL, "--agent-func", str(tmp_path / "plain.py")) == 2


def test_tasks_of_several_games_are_played_by_their_own_agents_and_counted_apart(tmp_path: Path) -> None:
    tasks, out = tmp_path / "both.jsonl", tmp_path / "run"
    mixed = [task for env in ("doors", "minesweeper") for task in envs.lookup(env).tasks("eval", 4)]
    write_dataset(tasks, mixed)
    line = ("--tasks", str(tasks), "--player", "oracle", "--out", str(out))
    shown = json.loads(evaluate(*line, "--json"))
    assert (shown["tasks"], shown["trials"], set(shown["environments"])) == (8, 8, {"doors", "minesweeper"})
    for env, found in shown["environments"].items():
        own = [task for task in mixed if task.env == env]
        agent, _ = load_agent(f"openrlhf_lamer.agents.{env}")
        assert found["success@1"]["value"] == wins(envs.make(env), own, agent.max_turns) / 4
    table = evaluate(*line, "--csv")
    assert "doors: success@1" in table
    assert "minesweeper: success@1" in table
    settings = json.loads((out / "run.json").read_text())["settings"]
    names = [f"openrlhf_lamer.agents.{env}" for env in ("doors", "minesweeper")]
    assert settings["agent"] == [{"name": name} for name in names]

    other = [*line[:-1], str(tmp_path / "other")]
    message = evaluate(*other, "--agent-func", names[0], code=2).replace("\n", "")
    assert f"tasks of minesweeper, but {names[0]} plays doors" in message
    evaluate(*other, "--agent-func", f"{names[1]},openrlhf_lamer.agents.sokoban,{names[0]}")
    # An agent that no task needs leaves no trace.
    one = ("--tasks", "minesweeper/3-mines", "--first", "1", "--player", "oracle", "--out", str(tmp_path / "one"))
    evaluate(*one, "--agent-func", ",".join(names))
    assert json.loads((tmp_path / "one" / "run.json").read_text())["settings"]["agent"] == {"name": names[1]}


def test_alfworld_is_evaluated_with_thirty_turns(tmp_path: Path, need: Callable[[str], None]) -> None:
    need("alfworld")
    assert longest(tmp_path, "--tasks", "alfworld/generated/id", "--first", "2", "--attempts", "1") == 30


def test_a_panel_says_how_many_turns_there_are(tmp_path: Path) -> None:
    """The panel's number, else the agent's; a flag overrides both. The run records the panel's version."""
    shares = {}
    for name, more in (("4-mines", ()), ("4-mines-long", ()), ("4-mines-long", ("--max-turns", "7"))):
        out = tmp_path / "-".join((name, *more))
        line = ("--tasks", f"minesweeper/{name}", "--player", "oracle", "--out", str(out), "--attempts", "1", "--json")
        shares[name, more] = json.loads(evaluate(*line, *more))["success@1"]["value"]
        settings = json.loads((out / "run.json").read_text())["settings"]
        assert settings["panel"]["version"] == panels.load(f"minesweeper/{name}").version
        assert (settings["config"]["max_turns"] or 7) == (20 if name.endswith("long") and not more else 7)
    assert list(shares.values()) == [84 / 128, 1, 84 / 128]


def test_methods_say_what_they_measure(tmp_path: Path) -> None:
    for method in METHODS.values():
        out = tmp_path / method.name
        shown = json.loads(evaluate(*SMALL, "--player", "random", "--method", method.name, "--out", str(out), "--json"))
        independent = method.memory is None
        assert shown["trials"] == (18 if independent else 6)
        name = "pass" if independent else "success"
        assert {key for key in shown if "@" in key} == {f"{name}@{k}" for k in (1, 2, 3)}
        trials = read_trials(out)
        assert {len(trial.episodes) for trial in trials} <= ({1} if independent else {1, 2, 3})
        assert {trial.sample for trial in trials} == ({0, 1, 2} if independent else {0})
        prompts = [
            TextChat().decode(turn.prompt_ids) for trial in trials for turn in trial.turns if turn.phase is Phase.PLAY
        ]
        assert all(("think first" in prompt) == method.reasons for prompt in prompts)
        assert all(("and nothing else" in prompt) != method.reasons for prompt in prompts)
        assert any("Your remark on it" in prompt for prompt in prompts) == (method.memory in ("reflection", "both"))
        assert any("Actions:" in prompt for prompt in prompts) == (method.memory == "both")


@pytest.mark.parametrize("method", METHODS)
def test_an_agent_that_does_not_reason_is_asked_for_the_action_alone(method: str, tmp_path: Path) -> None:
    line = ("--tasks", "darkroom/5", "--first", "2", "--attempts", "2", "--player", "random", "--method", method)
    evaluate(*line, "--out", str(tmp_path))
    prompts = [TextChat().decode(turn.prompt_ids) for trial in read_trials(tmp_path) for turn in trial.turns]
    played = [prompt for prompt in prompts if "Your step?" in prompt]
    assert len(played) > 8
    assert all("give one action as <action>...</action> and nothing else" in prompt for prompt in played)
    assert not any("think" in prompt.lower() for prompt in prompts)


@pytest.mark.parametrize("env", ["alfworld", "minesweeper", "sokoban", "webshop"])
def test_every_agent_can_ask_for_the_action_alone(env: str) -> None:
    for name in (env, None):
        folder = manifest.MANIFESTS.parent / "prompts"
        text = (folder / name / "play.j2" if name else folder / "play.j2").read_text()
        assert text.count("reasons") == 2
        assert "think" not in text.replace('"think first', "", 1)


def test_independent_attempts_are_counted_by_task(tmp_path: Path) -> None:
    line = (*SMALL, "--player", "random", "--method", "rl", "--attempts", "2", "--samples", "3", "--out", str(tmp_path))
    shown = list(csv.DictReader(io.StringIO(evaluate(*line, "--csv"))))
    assert [row["measure"] for row in shown] == ["pass@1", "pass@2"]
    by_task: dict[str, list[bool]] = {}
    for trial in read_trials(tmp_path):
        by_task.setdefault(trial.task.id, []).append(trial.won)
    assert [len(won) for won in by_task.values()] == [3] * 6
    pairs = [[any(two) for two in itertools.combinations(won, 2)] for won in by_task.values()]
    assert float(shown[0]["share"]) == pytest.approx(fmean(fmean(won) for won in by_task.values()))
    assert float(shown[1]["share"]) == pytest.approx(fmean(fmean(each) for each in pairs))
    assert shown[1]["tasks"] == "6"


def test_the_table_names_what_it_shows(tmp_path: Path) -> None:
    table = evaluate(*SMALL, "--player", "oracle", "--out", str(tmp_path))
    for text in ("minesweeper/3-mines, lamer, oracle", "success@3", "6 tasks, 6 trials"):
        assert text in table
    assert json.loads((tmp_path / "summary.json").read_text())["success@1"]["tasks"] == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nobody plays: give --model"),
        (("--player", "oracle", "--model", "x"), "leave --model and --endpoint out"),
        (("--player", "oracle", "--method", "rl", "--memory", "both"), "--memory both: the attempts of rl are"),
        (("--player", "oracle", "--method", "rl", "--samples", "2"), "--samples 2: rl needs one for each of the 3"),
        (("--player", "oracle", "--agent-func", "openrlhf_lamer.agents.sokoban"), "tasks of minesweeper, but"),
        (("--player", "oracle", "--json", "--csv"), "either --json or --csv"),
        (("--model", "nowhere"), "--model nowhere: no config.json there"),
        (("--model", "m", "--endpoint", "localhost:8000"), "--endpoint localhost:8000: give a URL"),
        (("--model", "m", "--endpoint", "http://localhost:1/v1", "--tokenizer", "nowhere"), "--tokenizer nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in evaluate(*SMALL, "--out", str(tmp_path / "run"), *arguments, code=2)
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    line = (*SMALL, "--player", "oracle", "--out", str(tmp_path))
    evaluate(*line)
    for change in (("--player", "random"), ("--method", "reflexion"), ("--seed", "1"), ("--temperature", "1")):
        assert "other settings" in evaluate(*line, *change, code=2)
    assert 'panel.name is "minesweeper/3-mines" there' in evaluate(*line, "--tasks", "minesweeper/4-mines", code=2)
    evaluate(*line, "--concurrency", "2", "--first", "8")
    assert len(read_trials(tmp_path)) == 8


def test_a_run_without_any_result_fails_with_the_commonest_reason(tmp_path: Path) -> None:
    agent = tmp_path / "broken.py"
    agent.write_text(
        "from openrlhf_lamer.agents.base import Agent\n"
        "from openrlhf_lamer.envs import register\n"
        "from openrlhf_lamer.envs.minesweeper import MineSweeper\n"
        "class Broken(MineSweeper):\n"
        "    name = 'broken_minesweeper'\n"
        "    def step(self, action):\n"
        "        raise OSError('the server of boards is away')\n"
        "register(Broken.name, Broken)\n"
        "agent = Agent(Broken.name, max_turns=3, rules='Open all cells without a mine.')\n"
    )
    tasks = [replace(task, env="broken_minesweeper") for task in seeded_tasks("minesweeper", "eval", 3)]
    write_dataset(tmp_path / "tasks.jsonl", tasks)
    words = ("--tasks", str(tmp_path / "tasks.jsonl"), "--agent-func", str(agent), "--player", "random")
    said = evaluate(*words, "--out", str(tmp_path / "out"), code=1)
    assert "error: all 3 trials failed. Most often (3 of 3), environment at step: OSError: the server of boards" in said
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == 3


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """A real process, killed while it writes, three times; in the end every job is there once."""
    slow = (
        "import asyncio, sys\n"
        "from openrlhf_lamer.policies.scripted import RandomPolicy\n"
        "generate = RandomPolicy.generate\n"
        "async def slowly(self, request):\n"
        "    await asyncio.sleep(0.02)\n"
        "    return await generate(self, request)\n"
        "RandomPolicy.generate = slowly\n"
        "from openrlhf_lamer.cli.main import main\n"
        "main()\n"
    )
    out = tmp_path / "run"
    line = [
        *(sys.executable, "-c", slow, "eval", "--tasks", "minesweeper/3-mines", "--first", "40", "--player", "random"),
        *("--out", str(out), "--concurrency", "8", "--json"),
    ]
    path, before = out / "trials.jsonl", 0
    for kill in range(3):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not path.exists() or path.read_bytes().count(b"\n") < before + 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = path.read_bytes().count(b"\n")
        assert 5 * (kill + 1) <= before < 40
        with path.open("ab") as file:
            file.write(path.read_bytes()[: random.Random(kill).randrange(1, 400)])  # as if cut in the middle of a line
    there = {trial.task.id: trial.to_json() for trial in read_trials(out)}
    assert len(there) == before
    result = subprocess.run(line, capture_output=True, text=True, check=True, timeout=60)
    trials = read_trials(out)
    assert sorted(trial.task.id for trial in trials) == sorted(
        task.id for task in panels.load("minesweeper/3-mines").tasks()[:40]
    )
    assert {trial.task.id: trial.to_json() for trial in trials}.items() >= there.items()
    shown = json.loads(result.stdout.splitlines()[-1])
    straight = json.loads(evaluate(*line[4:10], "--out", str(tmp_path / "straight"), "--json"))
    for k in (1, 2, 3):
        assert shown[f"success@{k}"] == straight[f"success@{k}"]
