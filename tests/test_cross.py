"""The cross table on scripted players of whom it is known what makes them win."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.agents import Agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.envs.base import TextEnv
from openrlhf_lamer.evaluation.cross import Cell, CrossError, cells, deal, play_cross, table
from openrlhf_lamer.evaluation.players import Player, Sampling
from openrlhf_lamer.evaluation.run import Job, make_jobs
from openrlhf_lamer.evaluation.statistics import Estimate, share
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.policies.scripted import ScriptedPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Trial, Turn
from openrlhf_lamer.tasks import seeded_tasks
from openrlhf_lamer.text_chat import TextChat

TASKS = seeded_tasks("minesweeper", "eval", 6)


class Script(ScriptedPolicy):
    """Wins where it is told to, else opens a mine.

    Args:
        wins: When it wins: where a remark tells this board's secret, where there is any remark, from the second
            attempt on, or never.
        tells: Whether its remarks tell the secret.
    """

    def __init__(self, wins: str, tells: bool) -> None:
        super().__init__(TextChat())
        self._wins, self._tells = wins, tells

    async def generate(self, request: Request) -> Generation:
        self._prompt, self._episode = self._chat.decode(request.prompt_ids), request.episode
        return await super().generate(request)

    def act(self, env: TextEnv) -> str:
        told = {
            "secret": f"secret {secret(env)}." in self._prompt,
            "remark": "remark on it: " in self._prompt,
            "later": self._episode > 0,
            "never": False,
        }
        if told[self._wins]:
            return f"<action>{env.oracle()}</action>"
        mine = int(secret(env).split(",")[0])
        return f"<action>({mine // 6 + 1}, {mine % 6 + 1})</action>"

    def reflect(self, env: TextEnv) -> str:
        return f"<remark>The secret {secret(env)}.</remark>" if self._tells else "<remark>No idea.</remark>"


def secret(env: TextEnv) -> str:
    return env.anchor().split("|")[0].split(":")[1]


def played(
    folder: Path, agent: Agent, base: Script, trained: Script, jobs: list[Job] | None = None, **config: object
) -> dict[str, list[Trial]]:
    players = {
        name: Player(policy, TextChat(), scripted=True) for name, policy in (("base", base), ("trained", trained))
    }
    settings = LamerConfig.model_validate({"num_episodes": 2, "max_turns": 36, **config})
    cells = play_cross(players, agent, settings, Sampling(), jobs or make_jobs(TASKS, 1), folder, {"tasks": "test"})
    return {cell.folder: trials for cell, trials in asyncio.run(cells).items()}


def rates(found: dict[str, list[Trial]], attempts: int = 2) -> dict[str, float]:
    assert not [trial.failure for trials in found.values() for trial in trials if trial.failure]
    return {cell: sum(trial.won_by(attempts) for trial in trials) / len(trials) for cell, trials in found.items()}


@pytest.mark.parametrize("memory", ["both", "reflection"])
def test_a_gain_that_comes_from_what_reflections_say(memory: str, tmp_path: Path, minesweeper: Agent) -> None:
    found = played(tmp_path, minesweeper, Script("secret", tells=False), Script("secret", tells=True), memory=memory)
    won = {cell for cell, rate in rates(found).items() if rate == 1}
    assert won == {"base-plays-trained", "trained-plays-trained"}
    assert set(rates(found).values()) == {0.0, 1.0}
    assert ("trained-plays-history" in found) == (memory == "reflection")


def test_a_gain_that_comes_from_the_play(tmp_path: Path, minesweeper: Agent) -> None:
    found = rates(played(tmp_path, minesweeper, Script("never", tells=True), Script("later", tells=True)))
    assert all(rate == cell.startswith("trained-plays") for cell, rate in found.items())


def test_a_gain_that_any_reflection_brings(tmp_path: Path, minesweeper: Agent) -> None:
    found = rates(played(tmp_path, minesweeper, Script("remark", tells=False), Script("remark", tells=True)))
    assert all(rate == (not cell.endswith("removed")) for cell, rate in found.items())


def test_the_table_tells_the_gain_of_reflections_from_that_of_the_play(tmp_path: Path, minesweeper: Agent) -> None:
    found = played(tmp_path, minesweeper, Script("secret", tells=False), Script("secret", tells=True))
    by_cell = {cell: found[cell.folder] for cell in cells(LamerConfig())}
    shown = table(by_cell, 2)
    assert shown.note.startswith("minesweeper")
    rows = {str(row[0]): dict(zip(shown.columns[1:], row[1:], strict=True)) for row in shown.rows}
    shuffled = rows["trained plays, reflections shuffled"]
    own = "@2: from own reflections"
    for column in ("@2: from trained with its own", own):
        lost = shuffled[column]
        assert isinstance(lost, Estimate)
        assert (lost.value, lost.tasks) == (-1.0, 6)
    assert shuffled["success@2"] == share([{task.id: [0.0] for task in TASKS}])
    helped = rows["base plays, reflections trained"]
    gained = helped[own]
    assert isinstance(gained, Estimate)
    assert gained.value == 1.0
    assert rows["trained plays, reflections trained"][own] is None
    assert {row["failed"] for row in rows.values()} == {0}


def test_all_cells_begin_alike(tmp_path: Path, minesweeper: Agent) -> None:
    found = played(tmp_path, minesweeper, Script("secret", tells=False), Script("secret", tells=True))
    first = {tuple(trial.episodes[0].turns for trial in trials) for trials in found.values()}
    assert len(first) == 1


def test_what_is_removed_leaves_what_a_memory_of_history_shows(tmp_path: Path, minesweeper: Agent) -> None:
    script = Script("never", tells=True)
    removed = played(tmp_path / "a", minesweeper, script, script, memory="both")["base-plays-removed"]
    history = played(tmp_path / "b", minesweeper, script, script, memory="reflection")["base-plays-history"]
    assert [trial.episodes[1].turns[0].prompt_ids for trial in removed] == [
        trial.episodes[1].turns[0].prompt_ids for trial in history
    ]
    assert {trial.episodes[0].remark for trial in removed} == {None}
    assert {trial.episodes[0].reflection for trial in history} == {None}
    bare = played(tmp_path / "b", minesweeper, script, script, memory="reflection")["base-plays-removed"]
    text = TextChat().decode(bare[0].episodes[1].turns[0].prompt_ids)
    assert "Attempt 1. It was lost." in text
    assert "remark" not in text
    assert "It ended in this state" not in text


def test_no_trial_is_dealt_its_own_reflections_and_each_is_dealt_as_often(tmp_path: Path, minesweeper: Agent) -> None:
    jobs = make_jobs(TASKS, 2)
    script = Script("never", tells=True)
    found = played(tmp_path, minesweeper, script, script, jobs, num_episodes=3)
    told = Counter(trial.episodes[0].remark for trial in found["trained-plays-shuffled"])
    assert set(told.values()) == {2}
    own = {trial.task.id: trial.episodes[0].remark for trial in found["trained-plays-trained"]}
    for trial in found["trained-plays-shuffled"]:
        assert trial.episodes[0].remark in own.values()
        assert trial.episodes[0].remark != own[trial.task.id]
        # Both reflections come from one trial, in their order.
        assert trial.episodes[1].remark == trial.episodes[0].remark


def test_the_deal_is_the_seeds_and_needs_two_tasks() -> None:
    jobs = make_jobs(TASKS, 1)
    trials = [_recorded(job) for job in jobs]
    texts = [[turns[0].text for turns in deal(jobs, trials, seed).values()] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    silent = [replace(trial, episodes=(replace(trial.episodes[0], reflection=None),)) for trial in trials]
    with pytest.raises(CrossError, match="fewer than two tasks"):
        deal(jobs, [trials[0], *silent[1:]], 0)


def _recorded(job: Job) -> Trial:
    def turn(phase: Phase) -> Turn:
        return Turn(phase, 0, 0, (1,), (2,), None, job.task.id, None, False, 0.0, "", "")

    return Trial(job.task, (Episode((turn(Phase.PLAY),), Stop.LOST, "", turn(Phase.REFLECT)),))


def test_a_killed_table_goes_on_where_it_was(tmp_path: Path, minesweeper: Agent) -> None:
    base, trained = Script("secret", tells=False), Script("secret", tells=True)
    before = played(tmp_path, minesweeper, base, trained)
    for name in ("trained-plays-shuffled", "base-plays-removed"):
        file = tmp_path / name / "trials.jsonl"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    untouched = (tmp_path / "trained-plays-trained" / "trials.jsonl").read_bytes()
    after = played(tmp_path, minesweeper, base, trained)

    def remarks(found: dict[str, list[Trial]]) -> list[list[str | None]]:
        return [[trial.episodes[0].remark for trial in trials] for trials in found.values()]

    assert remarks(before) == remarks(after)
    assert (tmp_path / "trained-plays-trained" / "trials.jsonl").read_bytes() == untouched


def test_cells_need_reflections_and_attempts() -> None:
    assert [cell.folder for cell in cells(LamerConfig())][:2] == ["base-plays-base", "base-plays-trained"]
    assert Cell("trained", "history") in cells(LamerConfig(memory="reflection"))
    for config in (LamerConfig(memory="history"), LamerConfig(num_episodes=1)):
        with pytest.raises(CrossError):
            cells(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "sokoban/9-boxes"], "no panel is called"),
        (["--tasks", "sokoban/2-boxes"], "--base"),
        (["--tasks", "sokoban/2-boxes", "--json", "--csv"], "either --json or --csv"),
        (["--tasks", "sokoban/2-boxes", "--attempts", "1"], "--attempts"),
        (["--tasks", "sokoban/2-boxes", "--memory", "history"], "--memory"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], message: str, tmp_path: Path) -> None:
    models = ["--base", str(tmp_path), "--trained", str(tmp_path)]
    result = CliRunner().invoke(app, ["cross", *models, "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert message in result.output
