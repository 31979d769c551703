"""Evaluations, reports, prompts' lengths and training's checks, where trials go on after a success or have a budget."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from stand_ins import LONG, Long, prize_behind
from typer.testing import CliRunner

from openrlhf_lamer import room
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import ENV_VAR, ConfigError, LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.evaluation import viewer
from openrlhf_lamer.evaluation.outcomes import Outcome
from openrlhf_lamer.evaluation.reflections import analyse
from openrlhf_lamer.evaluation.run import read_trials
from openrlhf_lamer.evaluation.statistics import mean, share, single, success, wins
from openrlhf_lamer.policies.scripted import TypedPolicy
from openrlhf_lamer.records import Episode, Phase, Stop, Task, Trial, Turn
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.text_chat import TextChat

ENDS = {"w": Stop.WON, "l": Stop.LOST, "b": Stop.BUDGET}


def called(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.output


def made(seed: int, ends: str, remarks: Sequence[str | None] = (), sample: int = 0) -> Trial:
    """A trial of episodes of one turn that end like this, with reflections on the first ones."""

    def episode(n: int, end: str) -> Episode:
        def turn(phase: Phase, action: str | None) -> Turn:
            return Turn(phase, n, 0, (1,), (2,) * 5, None, "", action, True, 0.0, "s", "", played=action)

        remark = remarks[n] if n < len(remarks) else None
        return Episode((turn(Phase.PLAY, f"d{n}"),), ENDS[end], "", turn(Phase.REFLECT, remark) if remark else None)

    return Trial(Task("toy", seed=seed), tuple(episode(n, end) for n, end in enumerate(ends)), sample=sample)


def saved(folder: Path, trials: Sequence[Trial], **config: Any) -> Path:
    folder.mkdir()
    (folder / "trials.jsonl").write_text("".join(trial.to_json() + "\n" for trial in trials))
    settings = {"method": folder.name, "config": config}
    content = {"schema": 1, "settings": settings, "trials": len(trials)}
    (folder / "run.json").write_text(json.dumps(content))
    return folder


class TestEval:
    LINE = ("eval", "--tasks", "minesweeper/3-mines", "--player", "oracle", "--json")

    def test_an_oracle_wins_each_attempt_that_it_wins_at_all(self, tmp_path: Path) -> None:
        line = (*self.LINE, "--first", 8, "--no-stop-on-success", "--out", tmp_path)
        found = json.loads(called(*line))
        trials = read_trials(tmp_path)
        assert {len(trial.episodes) for trial in trials} == {3}
        shares = [found[f"{name}@{k}"]["value"] for name in ("success", "won") for k in (1, 2, 3)]
        assert len(set(shares)) == 1
        assert found["wins"]["value"] == pytest.approx(3 * shares[0])
        assert (found["episodes"]["value"], found["played"]["overlong"]) == (3, 0)
        config = json.loads((tmp_path / "run.json").read_text())["settings"]["config"]
        assert config["stop_on_success"] is False
        assert "turn_budget" not in config

        with (tmp_path / "trials.jsonl").open("r+") as file:  # killed in the middle of a line
            file.truncate(len(file.readline()) + 20)
        resumed = json.loads(called(*line))
        assert {key: resumed[key] for key in found if key != "played"} == {
            key: found[key] for key in found if key != "played"
        }
        again = {trial.task.id: [each.stop for each in trial.episodes] for trial in read_trials(tmp_path)}
        assert again == {trial.task.id: [each.stop for each in trial.episodes] for trial in trials}
        for other in (("--turn-budget", 9), ("--reflect-on-success",)):
            assert "holds a run with other settings" in called(*line, *other, code=2)
        assert "stop_on_success is false there and null here" in called(
            *self.LINE, "--first", 8, "--out", tmp_path, code=2
        )

    def test_without_the_options_the_record_and_the_figures_have_no_trace_of_them(self, tmp_path: Path) -> None:
        found = json.loads(called(*self.LINE, "--first", 4, "--out", tmp_path))
        config = json.loads((tmp_path / "run.json").read_text())["settings"]["config"]
        assert set(config) == {
            *("num_episodes", "max_turns", "context", "memory", "reward", "invalid_penalty", "env_options"),
        }
        assert set(found) == {*("method", "tasks", "trials", "failed", "played"), *(f"success@{k}" for k in (1, 2, 3))}

    def test_a_budget_ends_a_trial_and_bounds_what_is_counted(self, tmp_path: Path) -> None:
        line = (*self.LINE, "--first", 6, "--no-stop-on-success", "--turn-budget", 20, "--out", tmp_path)
        found = json.loads(called(*line))
        trials = read_trials(tmp_path)
        assert {sum(len(episode.turns) for episode in trial.episodes) for trial in trials} == {20}
        most = max(len(trial.episodes) for trial in trials)
        assert most > 2
        assert {key for key in found if "@" in key} == {
            f"{name}@{k}" for name in ("success", "won") for k in range(1, most + 1)
        }
        assert found["wins"]["value"] == pytest.approx(sum(len(trial.wins) for trial in trials) / 6)
        assert found["episodes"]["value"] == pytest.approx(sum(len(trial.episodes) for trial in trials) / 6)
        config = json.loads((tmp_path / "run.json").read_text())["settings"]["config"]
        assert (config["turn_budget"], config["num_episodes"]) == (20, 20)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (
                ("--method", "react", "--no-stop-on-success"),
                "--no-stop-on-success: the attempts of react are independent",
            ),
            (("--method", "rl", "--turn-budget", "9"), "--turn-budget 9: the attempts of rl are independent"),
            (("--reflect-on-success",), "add --no-stop-on-success"),
            (("--no-stop-on-success", "--attempts", "1"), "give more (--attempts)"),
            (("--attempts", "2", "--turn-budget", "15"), "--turn-budget 15: 2 episodes of 7 turns never use it up"),
            (
                ("--no-stop-on-success", "--reflect-on-success", "--memory", "history"),
                "--memory history has no reflections",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
        printed = called(*self.LINE, "--out", tmp_path / "out", *arguments, code=2)
        assert words in " ".join(printed.split())
        assert not (tmp_path / "out").exists()


class TestReport:
    GOES_ON = tuple(made(seed, ends) for seed, ends in enumerate(("wwl", "lww", "lll", "wlw", "lwl", "www")))
    STOPS = tuple(made(seed, ends) for seed, ends in enumerate(("w", "lw", "lll", "w", "lw", "w")))

    def rows(self, *folders: Path) -> dict[str, list[dict[str, Any]]]:
        return {table["name"]: table["rows"] for table in json.loads(called("report", *folders, "--json"))["tables"]}

    def test_attempts_one_by_one_have_a_table_where_trials_go_on(self, tmp_path: Path) -> None:
        goes_on = saved(tmp_path / "on", self.GOES_ON, num_episodes=3, stop_on_success=False)
        stops = saved(tmp_path / "off", self.STOPS, num_episodes=3)
        assert "single" not in self.rows(stops)
        found = self.rows(goes_on, stops)
        # Success within k is the same for both: what follows the first win does not count in it.
        first, second = ([row[f"@{k}"]["value"] for k in (1, 2, 3)] for row in found["success"])
        assert first == second == [0.5, pytest.approx(5 / 6), pytest.approx(5 / 6)]
        (row,) = found["single"]
        assert row["method"] == "on"
        for k, won in ((1, 3), (2, 4), (3, 3)):
            expected = share([single(self.GOES_ON, k)])
            assert expected.value == pytest.approx(won / 6)
            assert [row[f"won@{k}"][key] for key in ("value", "low", "high")] == [
                expected.value,
                expected.low,
                expected.high,
            ]
        assert row["wins"]["value"] == mean([wins(self.GOES_ON)]).value == pytest.approx(10 / 6)
        assert row["episodes"]["value"] == 3
        assert row["wins"]["low"] < 10 / 6 < row["wins"]["high"] <= 3
        page = tmp_path / "report.html"
        called("report", goes_on, stops, "--out", page)
        assert 'id="single"' in page.read_text()
        lines = {
            (each["table"], each["column"]) for each in csv.DictReader(io.StringIO(called("report", goes_on, "--csv")))
        }
        assert ("single", "wins") in lines

    def test_under_a_budget_columns_are_the_attempts_that_were_played(self, tmp_path: Path) -> None:
        trials = [made(0, "wwb"), made(1, "llwl"), made(2, "lb")]
        folder = saved(tmp_path / "budget", trials, num_episodes=24, turn_budget=24, stop_on_success=False)
        found = self.rows(folder)
        assert [key for key in found["success"][0] if key.startswith("@")] == ["@1", "@2", "@3", "@4"]
        (row,) = found["single"]
        assert [row[f"won@{k}"]["value"] for k in (1, 2, 3, 4)] == [pytest.approx(1 / 3)] * 3 + [0]
        assert (row["wins"]["value"], row["episodes"]["value"]) == (1, 3)

    def test_training_trials_too(self, tmp_path: Path) -> None:
        def line(step: int, trial: Trial) -> str:
            return f"{trial.to_json()[:-1]},{json.dumps({'step': step, 'group': 0})[1:]}\n"

        for name, trials in (("on", self.GOES_ON), ("off", self.STOPS)):
            (tmp_path / name).write_text("".join(line(1, trial) for trial in trials))
        (row,) = self.rows(tmp_path / "on")["training"]
        assert [row[f"won@{k}"]["value"] for k in (1, 2, 3)] == [0.5, pytest.approx(4 / 6), 0.5]
        assert not [key for key in self.rows(tmp_path / "off")["training"][0] if key.startswith("won")]

    def test_the_interval_of_a_single_attempt_is_wilsons_and_success_ignores_later_wins(self) -> None:
        outcomes = [Outcome.of(trial) for trial in self.GOES_ON]
        assert [outcome.goes_on for outcome in outcomes] == [True, True, False, True, True, True]
        assert success(outcomes, 3) == success([Outcome.of(trial) for trial in self.STOPS], 3)
        first = share([single(outcomes, 1)])
        assert (round(first.low, 4), round(first.high, 4)) == (0.1876, 0.8124)  # Wilson, 3 of 6


def test_the_viewer_lists_all_wins_of_a_trial() -> None:
    page = viewer.page([viewer.Entry(made(0, "wlwb"))], "trials")
    index = json.loads(page.split('id="index">')[1].split("</script>")[0])
    assert index[0]["wins"] == [1, 3]
    assert index[0]["stops"] == ["won", "lost", "won", "budget"]


def test_reflections_on_won_attempts_are_no_lost_ones_and_later_remarks_are_new_beside_them() -> None:
    """Lost (said d0), won (said how), lost (said the same again), and the last."""
    words = "open the fourth door at once"
    found = analyse([made(0, "lwlw", ["not d0 then", words, words])])
    assert (found.lost, found.reflections) == (2, 2)
    assert found.figures["valid"].cases == 2
    # The first remark's grams are all new, the second's all stand in the remark on the win.
    assert found.figures["novelty"].estimate.value == pytest.approx(0.5)


class TestRoom:
    @pytest.fixture(autouse=True)
    def _with_long(self) -> Iterator[None]:
        with registry.scoped(long=Long):
            yield

    @pytest.mark.parametrize("context", ["turn", "episode", "trial"])
    @pytest.mark.parametrize("memory", ["history", "reflection", "both"])
    @pytest.mark.parametrize("more", [{}, {"num_episodes": 3}, {"num_episodes": 4}])
    def test_no_way_to_spend_a_budget_needs_more_room(self, context: str, memory: str, more: dict[str, int]) -> None:
        """All ways to split 9 turns into attempts of at most 5, computed one by one."""
        config = LamerConfig.load(
            {"context": context, "memory": memory, "turn_budget": 9, "stop_on_success": False, **more}
        )
        env = registry.make("long")

        def longest(lengths: Sequence[int]) -> int:
            trial = room._BadTrial(LONG, config, 1024, env.facts, env.long_states(), lengths)
            found = length = 0
            for message in trial.messages():
                length = (room.BEGINNING if message.begins else length + 256) + room.MESSAGE
                length += room.estimate(message.text)
                found = max(found, length)
            return found

        def ways(left: int, attempts: int) -> Iterator[tuple[int, ...]]:
            yield ()
            if attempts and left:
                for first in range(1, min(5, left) + 1):
                    yield from ((first, *rest) for rest in ways(left - first, attempts - 1))

        most = max(longest(way) for way in ways(9, config.num_episodes) if way)
        # Numerals differ in length, so another way may need a token or two more.
        assert most + 1024 - 8 <= room.needed(LONG, config, 1024) < most + 1024 + room.STEP

    def test_a_longer_trial_needs_more(self) -> None:
        def needed(**config: Any) -> int:
            return room.needed(LONG, LamerConfig.load({"context": "trial", "memory": "history", **config}), 1024)

        assert needed(turn_budget=10) < needed(turn_budget=20) < needed(turn_budget=40)
        # A chat that goes on says how attempts ended, where no reflection does.
        assert needed(num_episodes=8) < needed(num_episodes=8, stop_on_success=False)


class TestTraining:
    @pytest.fixture
    def base(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        pytest.importorskip("openrlhf")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("{}")
        (tmp_path / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 32))
        return [
            *("--agent_func", "openrlhf_lamer.agents.minesweeper"),
            *("--actor.model_name_or_path", str(tmp_path / "model")),
            *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
        ]

    def test_the_options_reach_the_workers(self, base: list[str]) -> None:
        from openrlhf_lamer.integration.launch import launcher

        plan = launcher.prepare([*base, "--lamer.stop_on_success", "off", "--lamer.turn_budget", "21"])
        sent = LamerConfig.model_validate_json(plan.line.config.to_env())
        assert (sent.stop_on_success, sent.turn_budget, sent.num_episodes) == (False, 21, 21)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ("--lamer.stop_on_success off --lamer.num_episodes 1", r"--lamer.stop_on_success off: .* give more"),
            ("--lamer.reflect_on_success", r"--lamer.reflect_on_success: .* add --lamer.stop_on_success off"),
            ("--lamer.turn_budget 22 --lamer.num_episodes 3", r"--lamer.turn_budget 22: 3 episodes of 7 turns never"),
            ("--lamer.turn_budget 11 --lamer.num_episodes 5 --lamer.max_turns 2", r"5 episodes of 2 turns never"),
            ("--lamer.turn_budget -1", r"--lamer.turn_budget '-1'"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, base: list[str], given: str, words: str) -> None:
        from openrlhf_lamer.integration.launch import launcher

        with pytest.raises(ConfigError, match=words):
            launcher.prepare([*base, *given.split()])

    def test_evaluations_may_go_on_where_training_has_single_episodes(self, base: list[str], tmp_path: Path) -> None:
        from openrlhf_lamer.integration.launch import launcher

        line = [*base, "--lamer.num_episodes", "1", "--lamer.eval_episodes", "3", "--lamer.stop_on_success", "off"]
        with pytest.raises(ConfigError, match="give more"):
            launcher.prepare(line)
        launcher.prepare([*line, "--eval.dataset", str(tmp_path / "train.jsonl")])

    def test_orbits_setting_is_taken_as_it_stands_in_the_docs(self, base: list[str]) -> None:
        from openrlhf_lamer.integration.launch import launcher

        page = (Path(__file__).parent.parent / "docs" / "credit.md").read_text("utf-8")
        (block,) = (text for text in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "--lamer.turn_budget" in text)
        words = shlex.split(block.replace("\\\n", " "))
        assert words[:3] == ["python", "-m", "openrlhf.cli.train_ppo_ray"]
        plan = launcher.prepare([*words[3:], *base[2:]])  # with this model and these tasks
        config = plan.line.config
        assert (config.num_episodes, config.turn_budget, config.stop_on_success, config.reflects) == (
            24,
            24,
            False,
            False,
        )
        assert (plan.line["rollout.batch_size"], plan.line["rollout.n_samples_per_prompt"]) == (32, 8)

    def test_a_group_is_filtered_by_how_often_its_trials_win(
        self, base: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three wins of three, and one of three: both have a win, and the host must not take them for the same."""
        from openrlhf_lamer.agents import load_agent
        from openrlhf_lamer.integration.rollout.executor import executor_class

        agent, _ = load_agent("openrlhf_lamer.agents.doors")
        for stop, actions, score in (("off", "d4 d4 d4", 1.0), ("off", "d1 d4 d2", 1 / 3), ("on", "d1 d4", 1.0)):
            config = LamerConfig.load({"stop_on_success": stop, "env_options": {"doors": 4}})
            monkeypatch.setenv(ENV_VAR, config.to_env())
            executor = executor_class(agent)()
            executor._chat = chat = TextChat()
            played = executor.play(
                "",
                prize_behind("d4", doors=4),
                TypedPolicy(chat, actions.split()),
                sample=0,
                seed=None,
                max_new_tokens=99,
                max_length=1 << 30,
            )
            assert asyncio.run(played)["scores"] == pytest.approx(score)

    def test_the_hosts_clipping_leaves_room_for_a_win_in_every_episode(self, base: list[str]) -> None:
        """10 · (1 + 0.6 + 0.36) = 19.6, and at worst as before."""
        from openrlhf_lamer.integration.launch import launcher

        plan = launcher.prepare([*base, "--algo.advantage.estimator", "gae", "--lamer.stop_on_success", "off"])
        low, high = plan.line["reward.clip_range"]
        assert low <= -6.86
        assert 19.6 <= high <= 20
