"""The quickstart's parts, small; the whole of it is `make quickstart`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from openrlhf_lamer import envs, progress
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.progress import EVERY, bars
from openrlhf_lamer.quickstart import run as quickstart
from openrlhf_lamer.quickstart.following import StageError
from openrlhf_lamer.quickstart.memory import PeakMemory
from openrlhf_lamer.quickstart.report import START, Result, write_report
from openrlhf_lamer.quickstart.settings import QUICKSTARTS, Settings
from openrlhf_lamer.quickstart.stages import NOTE
from openrlhf_lamer.records import Failure, FailureKind, Stop, Trial
from openrlhf_lamer.tasks import read_dataset
from openrlhf_lamer.text_chat import TextChat
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.players import players

DOORS = replace(QUICKSTARTS["doors"], panel_size=60, steps=2, tasks=5)
CONFIG = DOORS.config


def played(spec: str, options: Mapping[str, Any], split: str = "eval", config: LamerConfig = CONFIG) -> list[Trial]:
    """A trial of a player on each of 60 tasks."""
    agent, chat = load_agent("openrlhf_lamer.agents.doors")[0], TextChat()
    tasks = envs.lookup("doors").tasks(split, 60, options=config.env_options)
    player = players(spec, chat, agent, config, options)
    return demonstrate(tasks, Rules(agent, config, 1 << 20, 1 << 30), chat, player)


@pytest.fixture(scope="module")
def trials() -> dict[str, list[Trial]]:
    """Players as the quickstart's models are: LaMer burns the lamp first, RL opens any door."""
    return {
        START: played("finder", {"searches": [["lamp"]], "share": 0.45}),
        "LaMer": played("finder", {"searches": [["lamp"]], "share": 1}),
        "RL": played("random", {}),
    }


@pytest.fixture
def reported(tmp_path: Path) -> Callable[..., Result]:
    """Writes the files of trainings, and the report on them."""

    def write(settings: Settings, start: list[Trial], **after: list[Trial]) -> Result:
        for arm in settings.arms:
            own = after[arm.name]
            steps = {0: start, 1: start[:10], settings.steps: own}
            files = {
                "evaluations": [(trial, {"step": step}) for step, each in steps.items() for trial in each],
                "trials": [(trial, {"step": n // 30 + 1, "group": n // 3}) for n, trial in enumerate(own)],
            }
            (tmp_path / arm.name).mkdir(exist_ok=True)
            for name, lines in files.items():
                text = "".join(f"{trial.to_json()[:-1]},{json.dumps(beside)[1:]}\n" for trial, beside in lines)
                (tmp_path / arm.name / f"{name}.jsonl").write_text(text)
        stages = quickstart.plan(tmp_path, settings)
        for stage, seconds, gib in zip(stages, (4, 6, 40, 60, 20), (1, 1, 2, 3, 1), strict=False):
            stage.folder.mkdir(parents=True, exist_ok=True)
            note = {"command": stage.said, "finished": True, "seconds": seconds, "peak_bytes": gib * 2**30}
            (stage.folder / NOTE).write_text(json.dumps(note))
        return write_report(tmp_path, settings, stages)

    return write


def won(trials: list[Trial], attempts: int) -> float:
    return sum(any(each.stop is Stop.WON for each in trial.episodes[:attempts]) for trial in trials) / len(trials)


class TestReport:
    def test_it_says_what_was_measured(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]], tmp_path: Path
    ) -> None:
        result = reported(DOORS, trials[START], lamer=trials["LaMer"], rl=trials["RL"])
        table: Any = result.table.rows
        rows = {row[0]: [each.value for each in row[1:]] for row in table}
        counted = {label: [won(own, k) for k in (1, 2, 3)] for label, own in trials.items()}
        assert counted["LaMer"] == [0, 1, 1]
        assert 0 < counted[START][1] < counted[START][2] < 1
        known = envs.make("doors", **CONFIG.env_options).references(3, 1)
        assert rows == {label: pytest.approx(list(shares)) for label, shares in {**known, **counted}.items()}
        assert list(rows) == [*known, START, "LaMer", "RL"]
        assert "60 tasks" in result.table.title

        gap = 100 * (counted["LaMer"][2] - counted["RL"][2])
        assert gap > 40
        assert result.verdict.startswith(f"At success@3, LaMer is +{gap:.1f} [")
        assert result.verdict.endswith("] points above RL.")
        page = (tmp_path / "report.md").read_text()
        for row in result.table.rows:
            assert f"| {' | '.join(map(str, row))} |" in page
        for text in (result.verdict, "Peak memory of all processes: 3.0 GiB", "| warm start | 40 |", "for 2 steps"):
            assert text in page
        assert "LaMer: 5 tasks x 8 trials of up to 3 episodes a step; RL: 5 tasks x 24 trials of up to 1" in page
        assert "| **together** | 130 |" in page
        assert "on the 60 tasks of doors (doors=8, lamp=True), split eval" in page
        assert result.table.title.startswith("Success within k attempts on doors (doors=8, lamp=True), split eval: 60 ")
        assert "no hidden state is held out from training" in page
        assert "compare with the row `without memory`" in page
        assert "</html>" in (tmp_path / "report.html").read_text()
        assert (tmp_path / "success.png").read_bytes().startswith(b"\x89PNG")

        results = json.loads((tmp_path / "results.json").read_text())
        for label, own in counted.items():
            for k, share in enumerate(own, 1):
                value, low, high = results["success"][label][f"success@{k}"]
                assert value == pytest.approx(share)
                assert low <= value <= high
        assert results["references"] == {label: list(shares) for label, shares in known.items()}
        expected = {"verdict": result.verdict, "tasks": 60, "failed": 0, "peak_gib": 3.0, "steps": 2}
        assert results | expected == results
        assert results["panel"] == "doors (doors=8, lamp=True), split eval"
        assert list(results["seconds"].values()) == [4, 6, 40, 60, 20]
        assert str(result.cost) == "2.2 minutes, and at most 3.0 GiB of memory"

    def test_the_installation_counts(
        self,
        reported: Callable[..., Result],
        trials: dict[str, list[Trial]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("OPENRLHF_LAMER_INSTALL_SECONDS", "70")
        reported(DOORS, trials[START], lamer=trials["LaMer"], rl=trials["RL"])
        page = (tmp_path / "report.md").read_text()
        assert "| installation | 70 |" in page
        assert "| **together** | 200 |" in page

    def test_training_that_falls_behind_is_said_to(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]]
    ) -> None:
        result = reported(DOORS, trials[START], lamer=trials["RL"], rl=trials["LaMer"])
        assert result.verdict.startswith("At success@3, LaMer is -")
        assert result.verdict.endswith("points above RL: it is behind.")

    def test_no_difference_is_said_to_be_none(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]]
    ) -> None:
        result = reported(DOORS, trials[START], lamer=trials[START], rl=trials[START])
        assert result.verdict.endswith("points above RL, an interval with 0 in it: no difference is shown.")

    def test_nothing_is_compared_where_all_trials_failed(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]]
    ) -> None:
        gone = Failure(FailureKind.ENGINE, "play", "gone")
        failed = [replace(trial, failure=gone) for trial in trials["LaMer"]]
        result = reported(DOORS, trials[START], lamer=failed, rl=trials["RL"])
        assert result.verdict.endswith("fewer than two tasks in common that were played: nothing is compared.")

    def test_one_training_is_compared_with_the_warm_start(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]]
    ) -> None:
        result = reported(replace(DOORS, arms=DOORS.arms[:1]), trials[START], lamer=trials["LaMer"])
        gap = 100 * (1 - won(trials[START], 3))
        assert result.verdict.startswith(f"At success@3, LaMer is +{gap:.1f} [")
        assert result.verdict.endswith("points above warm start.")


class TestCommands:
    @pytest.fixture
    def commands(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Settings], list[list[str]]]:
        """Commands before the trainings, those that write tasks carried out."""

        def prepare(settings: Settings) -> list[list[str]]:
            found: list[list[str]] = []
            for stage in quickstart.plan(tmp_path, settings)[:3]:
                command = stage.command
                assert command[:3] == (sys.executable, "-m", "openrlhf_lamer.cli.main")
                found.append(list(command[3:]))
                if command[3] == "prepare":
                    result = CliRunner().invoke(app, found[-1])
                    assert result.exit_code == 0, result.output
            return found

        return prepare

    @pytest.mark.parametrize("env", QUICKSTARTS)
    def test_tasks_are_as_many_as_steps_and_the_panel_need(
        self, env: str, commands: Callable[[Settings], list[list[str]]], tmp_path: Path
    ) -> None:
        settings = QUICKSTARTS[env]
        assert [words[0] for words in commands(settings)] == ["prepare", "prepare", "warmstart"]
        train, panel = (read_dataset(tmp_path / "data" / name / f"{name}.jsonl") for name in ("train", "eval"))
        assert len(train) == settings.steps * settings.tasks
        assert len(panel) == settings.panel_size
        assert {task.env for task in (*train, *panel)} == {env}
        with_options = [*train, *panel]
        assert all(task.options.items() <= settings.config.env_options.items() for task in with_options)

    @pytest.mark.parametrize("env", QUICKSTARTS)
    def test_the_warm_start_is_that_of_the_settings(
        self, env: str, commands: Callable[[Settings], list[list[str]]], tmp_path: Path
    ) -> None:
        settings = replace(QUICKSTARTS[env], seed=5)
        words = commands(settings)[-1]
        group: Any = typer.main.get_command(app)
        given = group.commands["warmstart"].make_context("warmstart", words[1:]).params
        config = settings.config
        assert (given["env"], json.loads(given["options"])) == (env, config.env_options)
        assert json.loads(given["player_options"]) == settings.player_options
        expected = {
            "attempts": config.num_episodes,
            "memory": config.memory,
            "context": config.context,
            "max_turns": config.max_turns,
            "trials": settings.demonstrations,
            "passes": settings.passes,
            "prompt_weight": settings.prompt_weight,
            "layers": settings.layers,
            "hidden": settings.hidden,
            "heads": settings.heads,
            "max_new_tokens": settings.max_new_tokens,
            "max_length": settings.max_length,
            "seed": 5,
            "out": tmp_path / "start",
            "model": None,
        }
        assert given.items() >= expected.items()

    @pytest.mark.parametrize("env", QUICKSTARTS)
    def test_trainings_pass_the_launchers_checks(
        self,
        env: str,
        commands: Callable[[Settings], list[list[str]]],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("openrlhf")
        from openrlhf_lamer.integration.launch import launcher

        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        settings = QUICKSTARTS[env]
        commands(settings)
        model = tmp_path / "start" / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text(json.dumps({"max_position_embeddings": settings.max_length}))
        (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        episodes = set()
        for arm in settings.arms:
            words = quickstart.training(tmp_path, settings, arm).command
            assert words[:3] == (sys.executable, "-m", "openrlhf.cli.train_ppo_ray")
            line = launcher.prepare(list(words[3:])).line
            config = line.config
            assert (config.num_episodes, config.evaluated().num_episodes) == (arm.num_episodes, 3)
            assert (config.context, config.memory) == (settings.config.context, settings.config.memory)
            assert config.trials == str(tmp_path / arm.name / "trials.jsonl")
            assert config.eval_trials == str(tmp_path / arm.name / "evaluations.jsonl")
            assert line["eval.steps"] == settings.steps
            episodes.add(arm.num_episodes * line["rollout.n_samples_per_prompt"] * line["rollout.batch_size"])
        assert len(episodes) == 1, "as many episodes an update in every training"


class TestFolder:
    CONSOLE = Console(quiet=True)

    def test_a_folder_of_something_else_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(quickstart.FolderError, match="no quickstart has written; give another"):
            quickstart.run(tmp_path, DOORS, self.CONSOLE)
        assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]

    def test_finished_stages_are_not_run_again(
        self, reported: Callable[..., Result], trials: dict[str, list[Trial]], tmp_path: Path
    ) -> None:
        before = reported(DOORS, trials[START], lamer=trials["LaMer"], rl=trials["RL"])
        assert quickstart.run(tmp_path, DOORS, self.CONSOLE).table == before.table
        with pytest.raises(StageError, match="made by another command than warm start has now"):
            quickstart.run(tmp_path, replace(DOORS, seed=1), self.CONSOLE)


class TestProgress:
    def test_without_a_terminal_there_is_a_line_at_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, shown = [100.0], io.StringIO()
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with bars(Console(file=shown)) as bar:
            advance = bar("trials", 50)
            for second in range(1, 91):
                now[0] = 100.0 + second
                advance(min(second, 50), "trials")
        told = [line.removeprefix("trials: ") for line in shown.getvalue().splitlines()]
        assert told[:4] == ["0 of 50, 0 s", "20 of 50, 20 s", "40 of 50, 40 s", "50 of 50, 50 s"]
        assert told[4:] == ["50 of 50, 70 s", "50 of 50, 90 s"], "a stage that goes on after its last unit says so"
        assert EVERY == 20

    def test_the_end_is_told_once_and_texts_change(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, shown = [0.0], io.StringIO()
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with bars(Console(file=shown)) as bar:
            advance = bar("imitation", 2)
            for second, done in ((1, 1), (2, 2), (3, 2), (4, 2)):
                now[0] = second
                advance(done, f"imitation, loss {second}.5")
        assert shown.getvalue().splitlines() == ["imitation: 0 of 2, 0 s", "imitation, loss 2.5: 2 of 2, 2 s"]

    def test_a_terminal_has_a_bar(self) -> None:
        shown = io.StringIO()
        with bars(Console(file=shown, force_terminal=True, width=100)) as bar:
            bar("trials", 4)(4, "all trials")
        assert "all trials" in shown.getvalue()
        assert "4/4" in shown.getvalue()


def test_memory_is_measured() -> None:
    pytest.importorskip("psutil")
    import time

    with PeakMemory(interval=0.01) as memory:
        time.sleep(0.3)
    assert memory.peak > 10 * 2**20
