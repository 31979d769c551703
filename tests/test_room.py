"""The prompt length computed in advance is enough for real trials, and training and evaluation use it."""

from __future__ import annotations

import asyncio
import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from stand_ins import LONG, PLAY, Counted, Long, Replies, played
from typer.testing import CliRunner

from openrlhf_lamer import envs, room
from openrlhf_lamer.agents import Agent, load_agent
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import ConfigError, LamerConfig
from openrlhf_lamer.doctor import Verdict, data
from openrlhf_lamer.doctor.model import context_length
from openrlhf_lamer.envs import registry
from openrlhf_lamer.envs.base import Observation, draw_action
from openrlhf_lamer.policies import Generation, Request
from openrlhf_lamer.records import Phase, Task
from openrlhf_lamer.tasks import seeded_tasks, write_dataset
from openrlhf_lamer.trial import run_trial

GAMES = envs.names(plugins=False)
CONTEXTS = ("turn", "episode", "trial")


@pytest.fixture(autouse=True)
def _with_long() -> Iterator[None]:
    with registry.scoped(long=Long):
        yield


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("memory", ["history", "reflection", "both"])
@pytest.mark.parametrize(("episodes", "limit"), [(1, 1024), (3, 1024), (2, 4096), (3, 100)])
def test_what_is_needed_is_what_the_trial_loop_comes_to(context: str, memory: str, episodes: int, limit: int) -> None:
    config = LamerConfig.model_validate({"context": context, "memory": memory, "num_episodes": episodes})
    reply = {1024: 256, 4096: 1024, 100: 100}[limit]
    remark = "word " * min(limit, 400)
    prompts = played(LONG, config, (f"<action>{room.ACTION}</action>", f"<remark>{remark}</remark>"), reply)
    needed = room.needed(LONG, config, limit)
    assert 0 <= needed - (max(prompts) + limit) < room.STEP
    assert needed % room.STEP == 0


def test_options_of_tasks_count_and_the_longest_decides() -> None:
    config = LamerConfig(env_options={"words": 100})
    alone = room.needed(LONG, config, 1024)
    assert room.needed(LONG, config, 1024, [{"words": 30}, {"words": 500}]) > alone
    assert room.needed(LONG, config, 1024, [{"words": 30}, {"words": 100}]) == alone


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("0: # # # # # #\n1: # _ _ P _ #", 16),
        ("Row 1: ? ? . 1 * 2", 12),
        ("You can carry one thing at a time. A thing in your hands is cleaned at a sinkbasin.", 22),
        ("take butterknife 1 from countertop 2, move saltshaker 3 to sidetable 1, go to garbagecan 1", 28),
        ("B0XR4C0L87 [SEP] Thornaby With Argan Oil For Curly Hair Clarifying Shampoo, DP-227 [SEP] $6.14", 40),
        ("click[b09j86im1o], click[back to search]", 17),
    ],
)
def test_tokens_are_estimated_about_as_qwen_counts_them(text: str, tokens: int) -> None:
    """Counted with Qwen's merges."""
    assert 0.95 * tokens <= room.estimate(text) <= 1.15 * tokens


def sizes(observation: Observation) -> int:
    return room.estimate("\n".join((observation.text, *observation.admissible)))


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("options", [{}, {"size": 10}], ids=["default", "large"])
def test_no_state_of_random_play_is_longer_than_the_long_states(
    need: Callable[[str], None], game: str, options: dict[str, Any]
) -> None:
    need(game)
    if options and game not in ("sokoban", "minesweeper"):
        pytest.skip("has no size")
    agent, rng = load_agent(f"openrlhf_lamer.agents.{game}")[0], random.Random(0)
    with closing(envs.make(game, **options)) as env:
        long = [sizes(state) for state in env.long_states()]
        first, later = long[0], long[1:] or long
        for task in envs.lookup(game).tasks("train", 6, options=options):
            observation = env.reset(task)
            assert sizes(observation) <= first
            total = 0
            for turn in range(agent.max_turns):
                step = env.step(draw_action(env, observation, rng))
                observation = step.observation
                assert sizes(observation) <= max(long)
                total += sizes(observation)
                if step.terminated or step.truncated:
                    break
                if turn > 4:  # on average, an attempt reads less than assumed
                    assert total / (turn + 1) <= sum(later) / len(later)


def test_alfworld_is_reckoned_with_seventy_commands(need: Callable[[str], None]) -> None:
    need("alfworld")
    with closing(envs.make("alfworld")) as env:
        assert [len(set(state.admissible)) for state in env.long_states()] == [70, 70]


class Random(Replies):
    """Plays at random, and reflects at the length of its replies."""

    def __init__(self, length: int, seed: int) -> None:
        super().__init__(length)
        self.rng = random.Random(seed)
        self.action = ""

    async def generate(self, request: Request) -> Generation:
        assert request.env is not None
        if request.phase is Phase.PLAY:
            self.action = request.env.random_action(self.rng)
        return await super().generate(request)


class Playing(Counted):
    """Says what a random player did."""

    def __init__(self, player: Random) -> None:
        super().__init__(())
        self.player = player

    def decode(self, ids: Sequence[int]) -> str:
        remark = f"<remark>{'word ' * self.player.length}</remark>"
        return f"<action>{self.player.action}</action>" if ids[0] == PLAY else remark


def random_prompts(agent: Agent, context: str, tasks: Sequence[Task], reply: int) -> list[int]:
    """Lengths of the prompts of random trials, counted as `room` does."""
    lengths = []
    for seed, task in enumerate(tasks):
        player = Random(reply, seed)

        config = LamerConfig.model_validate({"context": context})
        trial = run_trial(task, agent, player, Playing(player), config, max_new_tokens=reply, max_length=1 << 30)
        assert asyncio.run(trial).failure is None
        lengths += player.prompts
    return lengths


def command(folder: Path, game: str, *arguments: str, config: dict[str, Any] | None = None) -> list[str]:
    """The shortest command line of a training, with a model whose `config.json` is given."""
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(config or {}))
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    if not (folder / "train.jsonl").exists():
        write_dataset(folder / "train.jsonl", seeded_tasks(game, "train", 32))
    given = "--agent_func", f"openrlhf_lamer.agents.{game}", "--actor.model_name_or_path", str(model)
    return [*given, "--data.prompt_dataset", str(folder / "train.jsonl"), *arguments]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Prepares a training; gives its `--data.max_len`, as the host gets it. Warnings are errors."""
    pytest.importorskip("openrlhf")
    from openrlhf_lamer.integration import host
    from openrlhf_lamer.integration.launch import launcher

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))

    def run(*arguments: str, game: str = "minesweeper", config: dict[str, Any] | None = None) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            plan = launcher.prepare(command(tmp_path, game, *arguments, config=config))
        length = vars(host.host_parser().parse_args(plan.host_argv))["data.max_len"]
        assert length == plan.line["data.max_len"]
        return length

    return run


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("game", GAMES)
def test_every_prompt_of_random_play_fits_into_the_default(
    need: Callable[[str], None], prepare: Callable[..., int], game: str, context: str
) -> None:
    """With replies of 200 tokens, of three attempts; `benchmarks/prompts.py` does it at full size."""
    need(game)
    length = prepare("--lamer.context", context, game=game)
    agent, _ = load_agent(f"openrlhf_lamer.agents.{game}")
    prompts = random_prompts(agent, context, envs.lookup(game).tasks("train", 4), 200)
    assert max(prompts) <= length - 1024
    assert 4096 <= length <= 40960  # what Qwen3 takes


def test_the_default_follows_from_what_a_trial_is(prepare: Callable[..., int]) -> None:
    usual = prepare("--lamer.context", "trial")
    assert usual > prepare("--lamer.context", "trial", "--lamer.num_episodes", "2")
    assert usual > prepare("--lamer.context", "trial", "--rollout.max_new_tokens", "512") > 4096
    assert usual < prepare("--lamer.context", "trial", "--lamer.max_turns", "12")
    assert usual < prepare("--lamer.context", "trial", "--lamer.env_options", '{"size": 10, "mines": 10}')
    assert prepare("--lamer.context", "turn") == 4096
    assert prepare("--data.max_len", "12345") == 12345


def test_options_of_the_data_set_count(prepare: Callable[..., int], tmp_path: Path) -> None:
    usual = prepare("--lamer.context", "trial")
    tasks = seeded_tasks("minesweeper", "train", 4, options={"size": 10, "mines": 10})
    write_dataset(tmp_path / "eval.jsonl", tasks)
    assert prepare("--lamer.context", "trial", "--eval.dataset", str(tmp_path / "eval.jsonl")) > usual
    write_dataset(tmp_path / "train.jsonl", [*seeded_tasks("minesweeper", "train", 28), *tasks])
    assert prepare("--lamer.context", "trial") > usual


def test_an_evaluation_with_more_turns_than_training_counts(
    need: Callable[[str], None], prepare: Callable[..., int], tmp_path: Path
) -> None:
    need("alfworld")
    write_dataset(tmp_path / "eval.jsonl", seeded_tasks("alfworld", "eval", 2))
    evaluated = "--lamer.context", "episode", "--eval.dataset", str(tmp_path / "eval.jsonl")
    assert prepare(*evaluated, game="alfworld") > 2 * prepare("--lamer.context", "episode", game="alfworld")
    ten = prepare(*evaluated, "--lamer.max_turns", "10", game="alfworld")
    assert ten == prepare("--lamer.context", "episode", game="alfworld")


def test_a_length_that_is_too_short_is_a_warning_with_the_figure(prepare: Callable[..., int]) -> None:
    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
    needed = room.needed(agent, LamerConfig(context="trial"), 1024)
    message = rf"--data.max_len 4096, but .* need {needed}: .* overlong.*; give --data.max_len {needed}, or fewer"
    with pytest.raises(UserWarning, match=message):
        prepare("--lamer.context", "trial", "--data.max_len", "4096")
    assert prepare("--lamer.context", "trial", "--data.max_len", str(needed)) == needed


def test_the_default_is_at_most_what_the_model_takes(prepare: Callable[..., int]) -> None:
    takes = {"max_position_embeddings": 2048}
    with pytest.raises(UserWarning, match=r"the model takes 2048 tokens, but .* need \d+: .*; give fewer attempts"):
        prepare(config=takes)
    small = "--rollout.max_new_tokens", "64", "--lamer.num_episodes", "1"
    assert prepare(*small, config=takes) == 2048
    with pytest.raises(
        ConfigError, match=r"--data.max_len 3000 .* the model takes 2048 \(its config.json\); give less"
    ):
        prepare("--data.max_len", "3000", config=takes)
    with pytest.raises(ConfigError, match=r"--data.max_len 1024 .* reply of 1024 tokens.*takes 1024"):
        prepare(config={"max_position_embeddings": 1024})


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({}, None),
        ({"max_position_embeddings": 40960}, 40960),
        ({"text_config": {"max_position_embeddings": 262144}}, 262144),
        ({"max_position_embeddings": 40960, "rope_scaling": None}, 40960),
        (
            {
                "max_position_embeddings": 40960,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 32768),
    ],
)
def test_what_a_model_takes_is_read_as_vllm_reads_it(tmp_path: Path, config: dict, length: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert context_length(tmp_path) == length


def test_an_agent_whose_prompts_cannot_be_rendered_needs_the_flag() -> None:
    broken = replace(LONG, rules="{{ env.unknown }}")
    with pytest.raises(room.RoomError, match=r"--data.max_len: .*unknown.*; give --data.max_len"):
        room.settle(broken, LamerConfig(), 1024, flag="--data.max_len")
    assert room.settle(broken, LamerConfig(), 1024, flag="--data.max_len", given=5000) == (5000, "")


def test_doctor_says_it_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    name = "openrlhf_lamer.agents.sokoban"
    needed = room.needed(load_agent(name)[0], LamerConfig(context="trial"), 1024)
    command(tmp_path, "sokoban", config={"max_position_embeddings": 40960})
    asked = "doctor", "--json", "--agent-func", name, "--model", str(tmp_path / "model"), "--context", "trial"

    def told(*arguments: str) -> dict[str, str]:
        found = json.loads(CliRunner().invoke(app, [*asked, *arguments]).stdout)
        return next(each for each in found if each["name"] == "prompts in context trial")

    assert told() == {
        "name": "prompts in context trial",
        "verdict": "ok",
        "found": f"they fit into --data.max_len {needed}, the default",
        "remedy": "",
    }
    short = told("--max-len", "4096")
    assert short["verdict"] == "warning"
    assert f"--data.max_len 4096, but the longest prompt of a trial and its reply need {needed}" in short["found"]
    assert short["remedy"].startswith(f"give --data.max_len {needed}, or")
    assert told("--max-len", "4096", "--num-episodes", "1", "--max-turns", "3")["verdict"] == "ok"
    assert told("--max-len", "50000")["verdict"] == "error"
    check = data.prompts(name, LamerConfig(context="trial"), 1024, given=None, model=needed - 1)
    assert check.verdict is Verdict.WARNING


@pytest.mark.parametrize("context", CONTEXTS)
def test_evaluation_takes_the_same_default(
    context: Literal["turn", "episode", "trial"], prepare: Callable[..., int], tmp_path: Path
) -> None:
    from openrlhf_lamer.cli.inputs import longest

    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
    config, panel = LamerConfig(context=context), seeded_tasks("minesweeper", "eval", 2)
    takes = {"max_position_embeddings": 40960}
    length = prepare("--lamer.context", context, config=takes)
    assert longest({agent.env: agent}, config, panel, 1024, None, tmp_path / "model") == length
    larger = seeded_tasks("minesweeper", "eval", 2, options={"size": 10, "mines": 10})
    assert longest({agent.env: agent}, config, larger, 1024, None, tmp_path / "model") >= length
    assert longest({agent.env: agent}, config, panel, 1024, 5000, None) == 5000  # nothing counts tokens


def test_evaluation_says_that_a_length_is_too_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from openrlhf_lamer.cli.inputs import longest

    agent, _ = load_agent("openrlhf_lamer.agents.minesweeper")
    config, panel = LamerConfig(context="trial"), seeded_tasks("minesweeper", "eval", 2)
    needed = room.needed(agent, config, 1024)
    assert longest({agent.env: agent}, config, panel, 1024, 4096, tmp_path) == 4096
    assert f"warning: --max-length 4096, but the longest prompt of a trial and its reply need {needed}" in (
        capsys.readouterr().err
    )


def test_a_prompt_that_does_not_fit_ends_its_attempt_and_the_trial() -> None:
    """As the warning says."""
    config, said = LamerConfig(context="trial"), ("<action>go</action>", "<remark>look</remark>")
    half = max(played(LONG, config, said, 64)) // 2
    playing = run_trial(
        Task("long", seed=0), LONG, Replies(64), Counted(said), config, max_new_tokens=64, max_length=half
    )
    stops = [episode.stop.value for episode in asyncio.run(playing).episodes]
    assert len(stops) < 3
    assert stops[-1] == "overlong"
