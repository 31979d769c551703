"""Measures of a model after imitation, and `openrlhf-lamer warmstart`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
from lamp_doors import AGENT, CONFIG, LAMP, RULES, doors, finder
from typer.testing import CliRunner

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.policies import EngineError, Request
from openrlhf_lamer.policies.scripted import TypedPolicy
from openrlhf_lamer.records import Phase, Trial
from openrlhf_lamer.rows import Row

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from openrlhf_lamer.warmstart import measures, run
from openrlhf_lamer.warmstart.demonstrations import Rules, demonstrate
from openrlhf_lamer.warmstart.measures import ModelPolicy, measure
from openrlhf_lamer.warmstart.model import load

pytest_plugins = "lamp_doors"


class TestMeasures:
    @pytest.fixture
    def half(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A model that gives each sampled token a probability of one half."""

        def scored(model: Any, rows: Sequence[Row]) -> tuple[Any, Any, Any]:
            sampled = torch.zeros(len(rows), max(len(row.ids) for row in rows) - 1, dtype=torch.bool)
            for i, row in enumerate(rows):
                for span in row.spans:
                    sampled[i, span.start - 1 : span.end - 1] = True
            return torch.full(sampled.shape, 0.5).log(), sampled, ~sampled

        monkeypatch.setattr(measures, "scored", scored)

    @pytest.mark.usefixtures("half")
    @pytest.mark.parametrize("memory", ["history", "both"])
    def test_shares_are_counted(self, door_chat: Chat, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model tries `d1`, then an action that does not exist, then `d2`; two of its remarks are none."""

        class Own(TypedPolicy):
            remarks: Iterator[str] = iter(["<remark>a</remark>", "b"] * 1000)

            def reflect(self, env: Any) -> str:
                return next(self.remarks)

        config = CONFIG.model_copy(update={"memory": memory})
        rules, tasks, own = Rules(AGENT, config, 32, 2048), doors(7000, 70), dict[str, list[str]]()
        actions = ["d1", "d77", "d2"]

        class EveryTrial:
            """Begins with `d1` in each trial."""

            def __init__(self, model: Any, chat: Chat) -> None:
                self._chat, self._own = chat, Own(chat, ())

            async def generate(self, request: Request) -> Any:
                if request.phase is Phase.PLAY:
                    self._own = Own(self._chat, [actions[request.episode]])
                return await self._own.generate(request)

        monkeypatch.setattr(measures, "ModelPolicy", EveryTrial)
        found = measure(torch.nn.Identity(), door_chat, rules, tasks, finder(door_chat, config), 0)
        with_prize = []
        for task in tasks:
            game = envs.make("doors", **LAMP)
            game.reset(task)
            with_prize.append(game.oracle())
            own[task.id] = ["d1"] if game.oracle() == "d1" else actions
        assert found.trials == 70
        first, second = (with_prize.count(door) / 70 for door in ("d1", "d2"))
        assert found.success == pytest.approx((first, first, first + second))
        turns = [action for played in own.values() for action in played]
        assert found.valid_actions == pytest.approx(1 - turns.count("d77") / len(turns))
        lost = sum(min(2, len(played) - (played == ["d1"])) for played in own.values())
        assert found.valid_remarks == (None if memory == "history" else pytest.approx(-(-lost // 2) / lost))

        shown = demonstrate(tasks, rules, door_chat, finder(door_chat, config))
        knew = [
            episode.turns[0]
            for trial in shown
            for before, episode in zip(trial.episodes, trial.episodes[1:], strict=False)
            if before.final_observation.startswith("Prize")
        ]
        assert found.certain_turns == len(knew) > 20
        assert found.certain == pytest.approx(fmean(0.5 ** len(turn.sampled_ids) for turn in knew))

    @pytest.mark.usefixtures("half")
    def test_a_player_that_never_knows_gives_no_probability(
        self, door_chat: Chat, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(measures, "ModelPolicy", lambda model, chat: finder(door_chat)(0))
        single = Rules(AGENT, CONFIG.model_copy(update={"num_episodes": 1}), 32, 2048)
        found = measure(torch.nn.Identity(), door_chat, single, doors(0, 5), finder(door_chat), 0)
        assert (found.certain, found.certain_turns) == (None, 0)

    def test_a_model_whose_trials_fail_is_no_measure(self, door_chat: Chat) -> None:
        class Broken(torch.nn.Identity):
            device = torch.device("cpu")

            def set_attn_implementation(self, name: str) -> None: ...

            def generate(self, *others: Any, **named: Any) -> Any:
                raise ValueError("out of memory")

        with pytest.raises(EngineError, match=r"3 of 3 trials of the model failed; the first: .*out of memory"):
            measure(Broken(), door_chat, RULES, doors(0, 3), finder(door_chat), 0)

    @pytest.mark.parametrize("ends", [True, False])
    def test_replies_are_sampled_from_the_model_as_it_is(self, door_chat: Chat, ends: bool) -> None:
        (end,), asked = door_chat.end_of_reply, dict[str, Any]()

        def generate(ids: Any, **named: Any) -> Any:
            asked.update(named)
            return torch.cat([ids, torch.tensor([[5, 6, end if ends else 7]])], 1)

        model = SimpleNamespace(device="cpu", set_attn_implementation=lambda name: None, generate=generate)
        reply = asyncio.run(ModelPolicy(model, door_chat).generate(Request((3, 4), 3, Phase.PLAY, None)))
        assert (reply.ids, reply.truncated) == ((5, 6, end if ends else 7), not ends)
        wanted = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": 3}
        assert asked.items() >= wanted.items()
        assert asked["eos_token_id"] == [end]


SIZE = ("--layers", "1", "--hidden", "32", "--heads", "1")
SMALL = (
    *(*SIZE, "--trials", "60", "--passes", "1", "--max-new-tokens", "8"),
    *("--env", "doors", "--options", '{"lamp": true}', "--memory", "history"),
)


class TestCommand:
    def test_it_makes_a_model_that_is_a_start_of_another(self, tmp_path: Path) -> None:
        def made(name: str, *more: str) -> tuple[dict[str, Any], list[Any]]:
            given = SMALL[len(SIZE) :] if "--model" in more else SMALL
            result = CliRunner().invoke(app, ["warmstart", *given, "--out", str(tmp_path / name), *more, "--json"])
            assert result.exit_code == 0, result.output
            figures = json.loads(result.stdout)
            assert figures == json.loads((tmp_path / name / "warmstart.json").read_text())
            lines = (tmp_path / name / "demonstrations.jsonl").read_text().splitlines()
            return figures, [Trial.from_json(line) for line in lines]

        figures, played = made("start", "--seed", "3")
        assert len(played) == figures["demonstrations"] == 60
        turns = [turn for trial in played for turn in trial.turns]
        assert figures["replies"] == len(turns)
        assert figures["sampled_tokens"] == sum(len(turn.sampled_ids) for turn in turns)
        assert figures["imitation"] == {
            "passes": 1.0,
            "batch_tokens": 4096,
            "learning_rate": 1e-3,
            "prompt_weight": 0.1,
            "seed": 3,
        }
        assert figures["config"]["env_options"] == {"lamp": True}
        assert figures["trials"] == 32
        assert len(figures["success"]) == 3
        tokenizer, model = load(tmp_path / "start" / "model")
        assert figures["parameters"] == sum(each.numel() for each in model.parameters())
        assert model.config.eos_token_id == Chat(tokenizer).end_of_reply[0]
        with torch.no_grad():
            assert torch.isfinite(model(torch.tensor([turns[0].prompt_ids])).logits).all()
        page = tmp_path / "page.html"
        shown = CliRunner().invoke(app, ["view", str(tmp_path / "start" / "demonstrations.jsonl"), "--out", str(page)])
        assert shown.exit_code == 0, shown.output
        assert played[0].task.id in page.read_text()

        wrong = CliRunner().invoke(
            app, ["warmstart", *SMALL, "--model", str(tmp_path / "start" / "model"), "--out", "x"]
        )
        assert (wrong.exit_code, "--layers, --hidden, --heads and --vocab" in wrong.output) == (2, True)
        again, replayed = made("again", "--model", str(tmp_path / "start" / "model"), "--seed", "3")
        assert again["imitation"] | {"learning_rate": 5e-5, "prompt_weight": 0.0} == again["imitation"]
        assert again["parameters"] == figures["parameters"]
        assert again["loss"] < figures["loss"]
        actions = [[turn.action for turn in trial.turns] for trial in replayed]
        assert actions == [[turn.action for turn in trial.turns] for trial in played]

    def test_the_seed_moves_the_players_draws(self, tmp_path: Path) -> None:
        drawn = set[tuple[str | None, ...]]()
        for seed in ("0", "1"):
            line = ["warmstart", *SMALL, "--seed", seed, "--trials", "20", "--out", str(tmp_path / seed)]
            result = CliRunner().invoke(app, line)
            assert result.exit_code == 0, result.output
            assert f"The model is in {tmp_path / seed / 'model'}." in result.stdout.replace("\n", "")
            lines = (tmp_path / seed / "demonstrations.jsonl").read_text().splitlines()
            drawn.add(tuple(Trial.from_json(each).turns[0].action for each in lines))
        assert len(drawn) == 2

    def test_a_model_that_cannot_be_measured_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(*given: Any) -> Any:
            raise EngineError("32 of 32 trials of the model failed")

        monkeypatch.setattr(run, "measure", fails)
        line = ["warmstart", *SMALL, "--trials", "20", "--out", str(tmp_path)]
        assert CliRunner().invoke(app, line).exit_code != 0
        assert load(tmp_path / "model")[1].config.hidden_size == 32
        assert not (tmp_path / "warmstart.json").exists()

    def test_a_data_set_gives_the_tasks_that_it_has(self) -> None:
        """Measured tasks follow the demonstrated ones; where there are too few, they begin again."""
        plan = run.Plan(
            replace(RULES, agent=load_agent("openrlhf_lamer.agents.webshop")[0], config=LamerConfig()), 8526
        )
        goals = [task.id for task in envs.lookup("webshop").tasks("train")]
        assert len(goals) == 8530
        assert [task.id for task in run._tasks(plan, run.FIRST, 3)] == goals[:3]
        assert [task.id for task in run._tasks(plan, run.CORPUS, 2)] == goals[:2]
        assert [task.id for task in run._tasks(plan, run.MEASURED, 6)] == [*goals[-4:], *goals[:2]]

    def test_a_measured_reply_is_at_most_twice_as_long_as_the_longest_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = dict[str, Any]()

        def watched(model: Any, chat: Chat, rules: Rules, tasks: Any, player: Any, seed: int, progress: Any) -> Any:
            asked.update(most=rules.max_new_tokens, tasks=len(list(progress(tasks))))
            return measure(model, chat, rules, tasks[:1], player, seed)

        monkeypatch.setattr(run, "measure", watched)
        line = ["warmstart", *SMALL, "--trials", "20", "--max-new-tokens", "500", "--out", str(tmp_path)]
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0, result.output
        shown = [Trial.from_json(each) for each in (tmp_path / "demonstrations.jsonl").read_text().splitlines()]
        assert asked["most"] == 2 * max(len(turn.sampled_ids) for trial in shown for turn in trial.turns)
        assert asked["tasks"] == 32
        assert "measures: 32 of 32" in result.output

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["--env", "nowhere"], "--env nowhere: no module 'openrlhf_lamer.agents.nowhere'"),
            (["--options", "[1]"], "--options '[1]' is not a JSON object"),
            (["--options", '{"doors": 1}'], '--env doors --options {"doors": 1}: doors: doors is a whole number'),
            (["--player", "nobody"], "--player nobody: no player is called so"),
            (["--player-options", "{"], "--player-options '{' is not a JSON object"),
            (["--player-options", '{"x": 1}'], '--player finder with --player-options {"x": 1}: '),
            (["--model", "gone"], "--model gone: no config.json there"),
            (["--attempts", "0"], "'--attempts'"),
            (["--memory", "none"], "'--memory'"),
            (["--passes", "0"], "'--passes'"),
            (["--learning-rate", "-1"], "'--learning-rate'"),
            (["--hidden", "8"], "'--hidden'"),
            (["--seed", "-1"], "'--seed'"),
        ],
    )
    def test_a_wrong_value_names_its_flag(self, given: list[str], message: str, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["warmstart", *SMALL, "--out", str(tmp_path / "out"), *given])
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
        assert not (tmp_path / "out").exists()

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        result = CliRunner().invoke(app, ["warmstart", *SMALL, "--out", str(tmp_path / "out")])
        assert (result.exit_code, "is a file; give a folder" in result.output) == (2, True)
