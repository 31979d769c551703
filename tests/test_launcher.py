"""The command line: what is passed on, what is refused at once, and how the host is assembled."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from commands import command

from openrlhf_lamer.agents import AgentError, load_agent
from openrlhf_lamer.config import ConfigError

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration import cpu, host
from openrlhf_lamer.integration.host import HostError, Seam
from openrlhf_lamer.integration.launch import launcher


def test_the_least_command_line_is_enough(base: list[str]) -> None:
    plan = launcher.prepare(base)
    assert plan.estimator == "lamer_gigpo"
    assert plan.line["rollout.n_samples_per_prompt"] == 8
    assert plan.agent_file.name == "minesweeper.py"
    assert plan.cpu == (not cpu.cuda_available())


def test_the_hosts_own_parser_takes_what_it_is_given(base: list[str]) -> None:
    given = "--lamer.gamma_traj", "0.3", "--train.seed=7", "--rollout.n_samples_per_prompt", "4"
    plan = launcher.prepare([*base, *given])
    parsed = vars(host.host_parser().parse_args(plan.host_argv))
    assert parsed["algo.advantage.estimator"] == "group_norm"
    assert parsed["train.agent_func_path"] == str(plan.agent_file)
    assert (parsed["train.seed"], parsed["rollout.n_samples_per_prompt"]) == (7, 4)
    assert parsed["algo.kl.init_coef"] == 0.0
    assert not [argument for argument in plan.host_argv if "lamer." in argument and argument.startswith("--")]


def test_stock_estimators_pass_through(base: list[str]) -> None:
    plan = launcher.prepare([*base, "--algo.advantage.estimator", "rloo", "--lamer.num_episodes", "1"])
    parsed = vars(host.host_parser().parse_args(plan.host_argv))
    assert parsed["algo.advantage.estimator"] == "rloo"


@pytest.mark.parametrize(
    ("estimator", "arguments", "least", "most"),
    [
        # MineSweeper, 7 turns: -3.5 to 10 an episode, and 1 + 0.6 + 0.36 episodes.
        ("gae", "", -6.86, 10),
        ("reinforce", "--lamer.max_turns 12", -11.76, 10),
        ("rloo", "--lamer.num_episodes 1", -13.5, 13.5),
        ("rloo", "", -16.86, 16.86),
        ("reinforce_baseline", "", -16.86 * 7 / 8, 16.86 * 7 / 8),
        ("dr_grpo", "--rollout.n_samples_per_prompt 2", -8.43, 8.43),
        ("flash_reinforce", "", -16.86 * 127 / 128, 16.86 * 127 / 128),
        ("group_norm", "--rollout.n_samples_per_prompt 400", -399 / 20, 399 / 20),
        # A refused action costs 1 there, and a reply without one 2. Cascades pay 2, and the last turn 10.
        ("gae", "--lamer.reward shaped --lamer.invalid_penalty 2", -14 * 1.96, 22 * 1.96),
        ("gae", "--reward.stop_properly_penalty_coef -30", -30, 10),
    ],
)
def test_the_default_clip_range_holds_all_that_the_host_may_clip(
    base: list[str], estimator: str, arguments: str, least: float, most: float
) -> None:
    given = [*base, "--algo.advantage.estimator", estimator, *arguments.split()]
    plan = launcher.prepare(given)
    low, high = vars(host.host_parser().parse_args(plan.host_argv))["reward.clip_range"]
    assert (low, high) == (min(-10, math.floor(least)), max(10, math.ceil(most)))
    assert tuple(plan.line["reward.clip_range"]) == (low, high)
    launcher.prepare([*given, "--reward.clip_range", str(least - 0.001), str(most + 0.001)])
    for narrow in ((least + 0.001, most), (least, most - 0.001)):
        with pytest.raises(ConfigError, match=r"--reward\.clip_range .* a trial can earn"):
            launcher.prepare([*given, "--reward.clip_range", *map(str, narrow)])


def test_no_clip_range_is_passed_on_for_an_estimator_of_ours(base: list[str]) -> None:
    assert "--reward.clip_range" not in launcher.prepare(base).host_argv


def test_an_estimator_with_a_critic_stands_in_for_the_hosts_own(base: list[str]) -> None:
    plan = launcher.prepare([*base, "--algo.advantage.estimator", "lamer_ppo", "--algo.advantage.lambd", "0.9"])
    parsed = vars(host.host_parser().parse_args(plan.host_argv))
    assert (parsed["algo.advantage.estimator"], parsed["algo.advantage.lambd"]) == ("gae", 0.9)
    assert plan.gpus == launcher.prepare(base).gpus + plan.line["critic.num_gpus_per_node"]


def test_asynchronous_training_needs_gpus_for_its_engines_even_if_the_rest_is_colocated(base: list[str]) -> None:
    more = [], ["--train.async_enable"]
    together, apart = (launcher.prepare([*base, "--train.colocate_all", *each]) for each in more)
    assert apart.gpus == together.gpus + apart.line["vllm.num_engines"]


def test_the_host_is_not_asked_to_pack_samples_for_batches_that_are_dynamic_anyway(base: list[str]) -> None:
    plan = launcher.prepare([*base, "--train.dynamic_batch_enable", "--train.seed", "7"])
    parsed = vars(host.host_parser().parse_args(plan.host_argv))
    assert (parsed["train.dynamic_batch_enable"], parsed["train.seed"]) == (False, 7)


def test_the_key_of_a_logger_is_no_argument_of_the_host(base: list[str]) -> None:
    for given in (["--logger.wandb.key", "secret"], ["--logger.wandb.key=secret"]):
        plan = launcher.prepare([*base, *given])
        assert not [argument for argument in plan.host_argv if "secret" in argument]
        assert host.host_parser().parse_args(plan.host_argv).__dict__["logger.wandb.key"] == "WANDB_API_KEY"
        assert launcher._worker_env(plan)["WANDB_API_KEY"] == "secret"
    named = launcher.prepare([*base, "--logger.wandb.key", "WANDB_API_KEY"])
    assert "WANDB_API_KEY" not in launcher._worker_env(named)


def test_the_hosts_way_to_name_an_agent_works_too(base: list[str]) -> None:
    _, file = load_agent("openrlhf_lamer.agents.minesweeper")
    assert launcher.prepare(["--train.agent_func_path", str(file), *base[2:]]).agent_file == file


def test_a_switch_alone_switches_on(base: list[str]) -> None:
    config = launcher.prepare([*base, "--lamer.reference", "--lamer.train_reflection", "off"]).line.config
    assert (config.reference, config.train_reflection) == (True, False)


def replaced(arguments: list[str], flag: str, value: str) -> list[str]:
    position = arguments.index(flag)
    return [*arguments[: position + 1], value, *arguments[position + 2 :]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lamer.num_episodes", "0"], "--lamer.num_episodes '0'"),
        (["--lamer.gamma_traj", "1.2"], "--lamer.gamma_traj '1.2'"),
        (["--lamer.gamma_step", "-1"], "--lamer.gamma_step '-1'"),
        (["--lamer.gama_traj", "0.5"], "--lamer.gama_traj: no such option. Did you mean --lamer.gamma_traj"),
        (["--lamer.env_options", "mines"], "--lamer.env_options 'mines' is not JSON"),
        (["--lamer.env_options", '{"bombs": 4}'], "--lamer.env_options.*bombs"),
        (["--algo.advantage.estimator", "lamer_gigpoo"], "--algo.advantage.estimator.*lamer_gigpoo"),
        (["--algo.advantage.estimator", "ppo"], "--algo.advantage.estimator.*'ppo'"),
        (["--rollout.n_samples_per_prompt", "1"], "--rollout.n_samples_per_prompt 1: lamer_gigpo"),
        (
            ["--algo.advantage.estimator", "group_norm", "--rollout.n_samples_per_prompt", "1"],
            "--rollout.n_samples_per_prompt 1: group_norm",
        ),
        (["--algo.kl.init_coef", "0.1"], "--algo.kl.init_coef 0.1"),
        (["--ds.packing_samples"], "--ds.packing_samples: not needed: forests of rows pad nothing"),
        (["--ds.ring_attn_size", "2"], "--ds.ring_attn_size 2: it needs packing by flash attention"),
        (["--lamer.updates", "17"], "--lamer.updates 17: a batch has 16 groups .--rollout.batch_size.; give fewer"),
        (["--lamer.loss_weight", "turn", "--actor.loss_agg_mode", "seq-mean-token-mean"], "turn weighs tokens, and"),
        (["--train.partial_rollout_enable"], "--train.partial_rollout_enable: .*add --train.async_enable"),
        (["--ds.lora.alpha", "32"], "--ds.lora.alpha: nothing has an adapter without --ds.lora.rank"),
        (["--ds.lora.target_modules", "q_proj", "v_proj"], "--ds.lora.target_modules: nothing has an adapter"),
        (["--ds.lora.rank", "-8"], "--ds.lora.rank -8, --ds.lora.alpha 16: both must be positive"),
        (["--ds.lora.rank", "8", "--ds.lora.alpha", "0"], "--ds.lora.alpha 0: both must be positive"),
        (["--ds.lora.rank", "8", "--ds.lora.dropout", "1"], r"--ds.lora.dropout 1.0: a share in \[0, 1\)"),
        (
            ["--ds.lora.rank", "8", "--ds.lora.target_modules", "all-linear"],
            "--ds.lora.target_modules: name layers.*for all linear ones leave it out",
        ),
        (["--ds.lora.rank", "8", "--train.enable_ema"], "--train.enable_ema: .*no adapter; leave the flag out"),
        (["--ds.lora.rank", "8", "--ref.offload"], "--ref.offload: no reference is loaded"),
        (["--ds.lora.rank", "8", "--vllm.sync_with_ray"], "--vllm.sync_with_ray: Ray would still be sending"),
        (
            ["--ds.lora.rank", "8", "--ds.tensor_parallel_size", "2", "--actor.num_gpus_per_node", "2"],
            "--ds.tensor_parallel_size: DeepSpeed would split linear layers that PEFT has wrapped",
        ),
        (["--ds.load_in_4bit"], "--ds.load_in_4bit: .*these would be quantised"),
        (["--reward.overlong_buffer_len", "8"], "--reward.overlong_buffer_len: .*a trial is many replies"),
        (["--reward.stop_properly_penalty_coef", "0.5"], "--reward.stop_properly_penalty_coef: lamer_gigpo takes"),
        (["--algo.advantage.gamma", "0.9"], "--algo.advantage.gamma: lamer_gigpo discounts by --lamer.gamma_step"),
        (["--algo.advantage.no_std_norm"], "--algo.advantage.no_std_norm: lamer_gigpo normalises as --lamer.norm"),
        (["--algo.advantage.lambd", "1.5"], "--algo.advantage.lambd 1.5: "),
        (
            ["--algo.advantage.estimator", "group_norm", "--lamer.norm", "mean_std"],
            "--lamer.norm: the host's group_norm gets one return of the whole trial",
        ),
        (
            ["--algo.advantage.estimator", "lamer_pkpo", "--lamer.gamma_step", "1"],
            "--lamer.gamma_step: it changes nothing in lamer_pkpo; leave the flag out",
        ),
        (["--lamer.hgpo.depth", "-1"], "--lamer.hgpo.depth '-1'"),
        (["--lamer.hgpo.depth_power", "inf"], "--lamer.hgpo.depth_power 'inf'"),
        (["--lamer.depth", "1"], "--lamer.depth: no such option. Did you mean --lamer.hgpo.depth?"),
        (["--lamer.depth_power", "1"], "Did you mean --lamer.hgpo.depth_power?"),
        (["--lamer.step_weight", "1"], "Did you mean --lamer.gigpo.step_weight?"),
        (["--lamer.hgpo.depth", "1"], "--lamer.hgpo.depth: lamer_gigpo has no such option"),
        (
            [
                *("--algo.advantage.estimator", "lamer_pkpo", "--lamer.pkpo.k", "4"),
                "--rollout.n_samples_per_prompt",
                "3",
            ],
            "--lamer.pkpo.k 4: the best of 4 trials .* --rollout.n_samples_per_prompt is 3; give fewer",
        ),
        (["--lamer.gigpo.similarity", "0"], "--lamer.gigpo.similarity '0': .* greater than 0"),
        (
            ["--algo.advantage.estimator", "lamer_ppo", "--lamer.cross_episode", "paper"],
            "--lamer.cross_episode paper: lamer_ppo .* give chained",
        ),
        (
            ["--algo.advantage.estimator", "lamer_ppo", "--critic.num_gpus_per_node", "3"],
            "--critic.num_gpus_per_node: rows are dealt out to . actors",
        ),
        (
            [*("--algo.kl.init_coef", "0.1", "--algo.kl.use_loss"), *("--ds.zero_stage", "3", "--ref.num_nodes", "3")],
            "--ref.num_gpus_per_node: rows are dealt out to . actors",
        ),
        (["--data.max_len", "512"], "--data.max_len 512.*--rollout.max_new_tokens 1024"),
        (["--train.batch_size", "30", "--train.micro_batch_size", "4"], "--train.batch_size 30"),
        (["--rollout.batch_size", "64"], "32 tasks, fewer than --rollout.batch_size 64"),
        (["--reward.clip_range", "-1", "1"], "--reward.clip_range: lamer_"),
        (
            ["--algo.advantage.estimator", "rloo", "--reward.clip_range", "-10", "10"],
            "--reward.clip_range -10 10: a trial can earn -6.86 to 10, .* rloo .* -16.86 to 16.86; .*clip_range -17 17",
        ),
        (
            ["--algo.advantage.estimator", "reinforce", "--reward.clip_range", "-6", "10"],
            "--reward.clip_range -6 10: a trial can earn -6.86 to 10; leave the flag out, or give .* -10 10",
        ),
        (
            ["--algo.advantage.estimator", "group_norm", "--reward.clip_range", "-2", "2"],
            "--reward.clip_range -2 2: .*group_norm makes of it, -2.475 to 2.475",
        ),
        (["--algo.advantage.estimator", "rloo", "--algo.advantage.gamma", "0.9"], "--algo.advantage.gamma 0.9: rloo"),
        (
            ["--actor.aux_loss_coef", "0.01"],
            "--actor.aux_loss_coef: the router's loss is one of padded rows, which forests replace",
        ),
        (["--eval.dataset", "nowhere.jsonl"], "--eval.dataset nowhere.jsonl: there is no such file.*prepare tasks"),
        (["--no.such.flag", "1"], "--no.such.flag"),
        (["--train.agent_func_path", "x.py"], "both name an agent"),
    ],
)
def test_what_cannot_work_is_refused_with_the_flag(base: list[str], arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        launcher.prepare([*base, *arguments])


def test_a_policy_with_an_adapter_needs_no_gpus_for_a_reference(base: list[str]) -> None:
    without = [*base, *"--actor.num_gpus_per_node 2 --ref.num_gpus_per_node 4 --vllm.num_engines 1".split()]
    without += ["--algo.kl.init_coef", "0.1", "--algo.kl.use_loss"]
    assert launcher.prepare([*without, "--ds.lora.rank", "0"]).gpus == 2 + 1 + 4
    plan = launcher.prepare([*without, "--ds.lora.rank", "8", "--ds.zero_stage", "3"])
    assert plan.gpus == 2 + 1
    parsed = vars(host.host_parser().parse_args(plan.host_argv))
    assert (parsed["ref.num_nodes"], parsed["ref.num_gpus_per_node"]) == (1, 2)  # the host compares them
    assert (parsed["ds.lora.rank"], parsed["ds.lora.target_modules"]) == (8, "all-linear")
    with pytest.raises(ConfigError, match=r"--ref\.num_gpus_per_node: rows are dealt out to 2 actors"):
        launcher.prepare([*without, "--ds.zero_stage", "3"])


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ([], 1),
        (["--train.async_queue_size", "3"], 3),
        (["--rollout.vllm_generate_batch_size", "33"], 3),  # two batches ahead, the last of them in part
        (["--train.partial_rollout_enable"], 2),
        (["--train.partial_rollout_enable", "--train.async_queue_size", "2"], 3),
        (["--train.partial_rollout_enable", "--rollout.vllm_generate_batch_size", "64"], 4),
    ],
)
def test_asynchronous_training_without_correction_is_told_how_old_its_trials_may_be(
    base: list[str], arguments: list[str], steps: int, recwarn: pytest.WarningsRecorder
) -> None:
    asynchronous = [*base, "--train.async_enable", "--rollout.batch_size", "16", *arguments]
    launcher.prepare(asynchronous)
    (told,) = [str(each.message) for each in recwarn if "async_enable" in str(each.message)]
    assert f"up to {steps} training step{'s' * (steps > 1)} old" in told
    assert ("in the middle of a trial" in told) == ("--train.partial_rollout_enable" in arguments)
    assert told.endswith("give --algo.advantage.is_correction_level token")
    recwarn.clear()
    for level in ("token", "seq"):
        launcher.prepare([*asynchronous, "--algo.advantage.is_correction_level", level])
    launcher.prepare(base)
    assert not [each for each in recwarn if "async_enable" in str(each.message)]


def test_unknown_agents_are_refused(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(AgentError, match=r"no module.*openrlhf_lamer.agents.minesweeper"):
        launcher.prepare(replaced(base, "--agent_func", "openrlhf_lamer.agents.chess"))
    with pytest.raises(AgentError, match="no file"):
        launcher.prepare(replaced(base, "--agent_func", str(tmp_path / "chess.py")))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(AgentError, match="defines no `agent`"):
        launcher.prepare(replaced(base, "--agent_func", str(tmp_path / "empty.py")))


def test_a_missing_model_is_named(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--actor.model_name_or_path .*no config.json"):
        launcher.prepare(replaced(base, "--actor.model_name_or_path", str(tmp_path)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input": "hello"}, "row 1: no column 'label'"),
        ({"input": "hello", "label": "4"}, "row 1: not a task"),
        ({"input": "hello", "label": '{"schema": 99, "env": "minesweeper", "seed": 1}'}, "schema 99"),
        ({"input": "hello", "label": '{"schema": 1, "env": "sokoban", "seed": 1}'}, "a task of 'sokoban'"),
    ],
)
def test_a_dataset_without_tasks_is_refused(base: list[str], tmp_path: Path, row: dict[str, str], message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=f"--data.prompt_dataset .*bad.jsonl, .*{message}"):
        launcher.prepare(replaced(base, "--data.prompt_dataset", str(tmp_path / "bad.jsonl")))


def test_a_host_without_the_seams_is_refused(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SEAMS", (*host.SEAMS, Seam("trainer/ppo_trainer.py", "PPOTrainer.gone", "a test")))
    with pytest.raises(HostError, match=r"PPOTrainer.gone.*Known to work: openrlhf==0.11.2"):
        launcher.prepare(base)


def test_an_untested_version_is_a_warning(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "host_version", lambda: "0.99.0")
    with pytest.warns(UserWarning, match=r"0.99.0 is untested"):
        launcher.prepare(base)


def test_cpu_mode_is_refused_where_cuda_is(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher.cpu, "cuda_available", lambda: True)
    with pytest.raises(ConfigError, match=r"--lamer.cpu on: this machine has a CUDA device"):
        launcher.prepare([*base, "--lamer.cpu", "on"])
    assert not launcher.prepare(base).cpu


def test_a_model_that_no_worker_would_find_is_refused_at_once(base: list[str]) -> None:
    result = command([*base, "--actor.model_name_or_path", "nobody/nothing"], HF_HUB_OFFLINE="1")
    assert result.returncode == 2
    *said, last = result.stderr.splitlines()
    assert last.startswith("openrlhf-lamer: error: --actor.model_name_or_path nobody/nothing is not in the cache, and ")
    assert last.endswith("; hf download nobody/nothing")
    if not cpu.cuda_available():
        assert "openrlhf-lamer: CPU mode: this machine has no CUDA device, so everything runs on the CPU." in said[-1]


def test_so_is_a_critic_that_no_worker_would_find(base: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    critic = ["--critic.model_name_or_path", "nobody/critic", "--critic.num_gpus_per_node", "1"]
    with pytest.raises(ConfigError, match=r"^--critic\.model_name_or_path nobody/critic is not in the cache"):
        launcher.launch(launcher.prepare([*base, *critic, "--algo.advantage.estimator", "lamer_ppo"]))


def test_the_command_leaves_with_2_and_one_line_and_starts_nothing(base: list[str]) -> None:
    result = command([*base, "--lamer.num_episodes", "0"])
    assert result.returncode == 2
    assert result.stderr.startswith("openrlhf-lamer: error: --lamer.num_episodes '0'")
    assert "ray" not in result.stdout.lower()
