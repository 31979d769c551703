"""Several games in one run: agents, options by environment, and the launcher's checks of all of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from openrlhf_lamer import envs, room
from openrlhf_lamer.agents import Agent, AgentError, load_agent
from openrlhf_lamer.agents.loading import AGENTS_VAR, load_agents, split_names
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.envs import registry
from openrlhf_lamer.games import games
from openrlhf_lamer.records import Task
from openrlhf_lamer.tasks import seeded_tasks, write_dataset

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration.host import host_parser
from openrlhf_lamer.integration.launch import launcher

SOKOBAN, MINES = "openrlhf_lamer.agents.sokoban", "openrlhf_lamer.agents.minesweeper"
BOTH = f"{SOKOBAN},{MINES}"

OWN = """
from openrlhf_lamer.agents import Agent, host_seam
from openrlhf_lamer.envs import register
from openrlhf_lamer.envs.doors import Doors

class Mine(Doors):
    name = "mine"

register("mine", Mine)
agent = Agent("mine", max_turns=9, rules="Choose.")
__getattr__ = host_seam(agent)
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shortest command line of two games, whose tasks are in one file."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    pairs = zip(seeded_tasks("sokoban", "train", 16), seeded_tasks("minesweeper", "train", 16), strict=True)
    write_dataset(tmp_path / "train.jsonl", [task for pair in pairs for task in pair])
    return [
        *("--agent_func", BOTH),
        *("--actor.model_name_or_path", str(tmp_path / "model")),
        *("--data.prompt_dataset", str(tmp_path / "train.jsonl")),
    ]


def replaced(arguments: list[str], flag: str, value: str) -> list[str]:
    position = arguments.index(flag)
    return [*arguments[: position + 1], value, *arguments[position + 2 :]]


class TestAgents:
    def test_modules_and_files_are_loaded_by_environment(self, tmp_path: Path) -> None:
        (tmp_path / "own.py").write_text(OWN)
        with registry.scoped():
            found = load_agents(split_names(f"{SOKOBAN} , {tmp_path / 'own.py'}"))
            assert envs.make("mine").name == "mine"
        assert {env: (agent.env, agent.max_turns, file) for env, (agent, file) in found.items()} == {
            "sokoban": ("sokoban", 7, load_agent(SOKOBAN)[1]),
            "mine": ("mine", 9, (tmp_path / "own.py").resolve()),
        }

    def test_two_agents_of_one_environment_are_refused_by_name(self, tmp_path: Path) -> None:
        own = tmp_path / "own.py"
        own.write_text("from openrlhf_lamer.agents import Agent\nagent = Agent('sokoban', max_turns=2)\n")
        with pytest.raises(AgentError, match=rf"{SOKOBAN} and {own} both play 'sokoban'.*name one of them"):
            load_agents([SOKOBAN, MINES, str(own)])

    @pytest.mark.parametrize("text", ["a,", ",a", "a,,b", ","])
    def test_an_empty_name_is_refused(self, text: str) -> None:
        with pytest.raises(AgentError, match="a comma without a name"):
            split_names(text)


class TestOptions:
    AGENTS = {env: Agent(env, max_turns=2) for env in ("sokoban", "minesweeper")}

    def test_one_agent_takes_them_flat_and_several_by_environment(self) -> None:
        flat = LamerConfig(env_options={"mines": 4}, num_episodes=2, eval_episodes=5)
        (game,) = games({"minesweeper": self.AGENTS["minesweeper"]}, flat).values()
        assert game.config is flat
        keyed = flat.model_copy(update={"env_options": {"minesweeper": {"mines": 4}}})
        found = games(self.AGENTS, keyed)
        assert {env: game.config.env_options for env, game in found.items()} == {
            "sokoban": {},
            "minesweeper": {"mines": 4},
        }
        assert all(game.config.model_copy(update={"env_options": flat.env_options}) == flat for game in found.values())
        assert [game.evaluated().config.num_episodes for game in found.values()] == [5, 5]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sokobann": {}}, r"no agent plays 'sokobann' \(did you mean 'sokoban'\?\); with several agents give"),
            ({"mines": 4}, r"no agent plays 'mines'.*such as '\{\"sokoban\": .*The agents play sokoban, minesweeper"),
            ({"sokoban": 6}, "the options of 'sokoban' are 6, which is no JSON object"),
        ],
    )
    def test_keys_that_are_no_environments_are_refused(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=f"--lamer.env_options: {message}"):
            games(self.AGENTS, LamerConfig(env_options=options))


class TestLauncher:
    def test_the_host_gets_our_file_and_workers_the_agents(self, base: list[str], tmp_path: Path) -> None:
        (tmp_path / "own.py").write_text(OWN)
        write_dataset(tmp_path / "mine.jsonl", [Task("mine", seed=1)])
        more = [*base[2:], "--agent_func", f"{MINES},{tmp_path / 'own.py'},{SOKOBAN}"]
        with registry.scoped():
            plan = launcher.prepare([*more, "--eval.dataset", str(tmp_path / "mine.jsonl")])
        parsed = vars(host_parser().parse_args(plan.host_argv))
        assert parsed["train.agent_func_path"] == str(launcher.SEVERAL)
        assert launcher.SEVERAL.is_file()
        told = json.loads(launcher._worker_env(plan)[AGENTS_VAR])
        files = [load_agent(MINES)[1], (tmp_path / "own.py").resolve(), load_agent(SOKOBAN)[1]]
        assert told == [str(file) for file in files]

    def test_with_one_agent_the_host_gets_its_file_and_nothing_else(self, base: list[str], tmp_path: Path) -> None:
        write_dataset(tmp_path / "train.jsonl", seeded_tasks("minesweeper", "train", 16))
        one = launcher.prepare(replaced(base, "--agent_func", MINES))
        parsed = vars(host_parser().parse_args(one.host_argv))
        assert parsed["train.agent_func_path"] == str(load_agent(MINES)[1])
        assert AGENTS_VAR not in launcher._worker_env(one)

    def test_a_task_that_no_agent_plays_is_named_with_its_place(self, base: list[str]) -> None:
        with pytest.raises(ConfigError) as refused:
            launcher.prepare(replaced(base, "--agent_func", SOKOBAN + ",openrlhf_lamer.agents.doors"))
        message = str(refused.value)
        assert f"--data.prompt_dataset {base[-1]}, row 2: a task of 'minesweeper'" in message
        assert f"{SOKOBAN} (sokoban), openrlhf_lamer.agents.doors (doors). Add one" in message

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--lamer.env_options", '{"size": 6}'], "--lamer.env_options: no agent plays 'size'"),
            (
                ["--lamer.env_options", '{"sokoban": {"mines": 3}}'],
                "--lamer.env_options: sokoban has no option 'mines'",
            ),
            (["--lamer.env_options", '{"sokoban": {"size": 99}}'], "--lamer.env_options: sokoban: size is .* not 99"),
            (["--data.prompt_probs", "0.5,0.5"], "--data.prompt_probs 0.5,0.5: give .* each of the 1 files"),
            (["--data.prompt_probs", "half"], "--data.prompt_probs half: give a share above 0"),
        ],
    )
    def test_options_and_shares_that_cannot_work_are_refused(
        self, base: list[str], arguments: list[str], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            launcher.prepare([*base, *arguments])

    @pytest.mark.parametrize(
        ("shares", "allowed"),
        [("0.7,0.3", True), ("1,0", False), ("0.7,0.4", False), ("1", False), ("0.3333,0.3333,0.3334", False)],
    )
    def test_shares_of_files_are_those_that_the_host_takes(
        self, base: list[str], tmp_path: Path, shares: str, allowed: bool
    ) -> None:
        paths = [str(tmp_path / f"{env}.jsonl") for env in ("sokoban", "minesweeper")]
        for path in paths:
            write_dataset(Path(path), seeded_tasks(Path(path).stem, "train", 16))
        given = [*replaced(base, "--data.prompt_dataset", ",".join(paths)), "--data.prompt_probs", shares]
        if allowed:
            assert "--data.prompt_probs" in launcher.prepare(given).host_argv
        else:
            with pytest.raises(ConfigError, match=r"--data\.prompt_probs .* such as 0\.5,0\.5"):
                launcher.prepare(given)

    def test_options_reach_the_checks_of_their_own_game(self, base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """The default length is that of the longest prompt over all games, each with its own options."""
        monkeypatch.setattr(room, "LEAST", 256)
        options = {"minesweeper": {"size": 20}, "sokoban": {"boxes": 3}}
        config = LamerConfig(context="trial")

        def needed(env: str, own: dict[str, int]) -> int:
            agent = load_agent(f"openrlhf_lamer.agents.{env}")[0]
            return room.needed(agent, config.model_copy(update={"env_options": own}), 1024)

        small, large = (max(needed(env, each.get(env, {})) for env in options) for each in ({}, options))
        assert small < large
        trial = [*base, "--lamer.context", "trial"]
        assert launcher.prepare(trial).line["data.max_len"] == small
        assert launcher.prepare([*trial, "--lamer.env_options", json.dumps(options)]).line["data.max_len"] == large

    def test_games_that_do_not_fit_are_named(self, base: list[str]) -> None:
        with pytest.warns(UserWarning, match=r"^minesweeper: --data\.max_len 1500, but") as warned:
            launcher.prepare([*base, "--data.max_len", "1500", "--lamer.context", "trial"])
        assert any("sokoban: --data.max_len 1500, but" in str(each.message) for each in warned)

    def test_rewards_of_all_trained_games_are_within_the_clip_range(self, base: list[str], tmp_path: Path) -> None:
        """And not those of a game that is only evaluated: its rewards are not clipped."""
        shaped = ["--algo.advantage.estimator", "gae", "--lamer.reward", "shaped"]

        def clipped(*names: str) -> list[float]:
            path = tmp_path / "some.jsonl"
            write_dataset(path, [task for name in names for task in seeded_tasks(name, "train", 16)])
            plan = launcher.prepare([*replaced(base, "--data.prompt_dataset", str(path)), *shaped, *evaluated])
            return list(plan.line["reward.clip_range"])

        evaluated = ["--eval.dataset", base[-1]]
        apart = [clipped("sokoban"), clipped("minesweeper")]
        assert apart[0] != apart[1]
        assert clipped("sokoban", "minesweeper") == [min(low for low, _ in apart), max(high for _, high in apart)]
        assert math.isfinite(sum(map(sum, apart)))

    def test_an_evaluation_may_have_other_games_and_an_idle_agent_is_told_of(
        self, base: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        write_dataset(tmp_path / "train.jsonl", seeded_tasks("sokoban", "train", 16))
        launcher.prepare(base)
        (told,) = [str(each.message) for each in recwarn if "--agent_func" in str(each.message)]
        assert f"no task is played by {MINES} (minesweeper)" in told
        recwarn.clear()
        write_dataset(tmp_path / "eval.jsonl", seeded_tasks("minesweeper", "eval", 2))
        launcher.prepare([*base, "--eval.dataset", str(tmp_path / "eval.jsonl")])
        assert not [each for each in recwarn if "--agent_func" in str(each.message)]
