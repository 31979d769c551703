"""Configuration: precedence, and errors that name the flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from openrlhf_lamer import advantage
from openrlhf_lamer.config import ENV_VAR, ConfigError, LamerConfig


def test_flags_win_over_the_file_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "lamer.toml"
    file.write_text("num_episodes = 5\ngamma_traj = 0.3\n[env_options]\nmines = 4\n")
    monkeypatch.setenv(ENV_VAR, '{"num_episodes": 7, "gamma_step": 0.5, "gamma_traj": 0.1}')
    config = LamerConfig.load({"num_episodes": "2"}, str(file))
    assert (config.num_episodes, config.gamma_traj, config.gamma_step) == (2, 0.3, 0.5)
    assert config.env_options == {"mines": 4}


def test_the_variable_carries_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LamerConfig(num_episodes=2, context="episode", reference=True, env_options={"size": 4}, trials="t.jsonl")
    monkeypatch.setenv(ENV_VAR, config.to_env())
    assert LamerConfig.load() == config


@pytest.mark.parametrize(
    ("flag", "value"),
    [("num_episodes", "0"), ("gamma_step", "1.5"), ("gamma_traj", "-0.1"), ("context", "word"), ("reference", "maybe")],
)
def test_a_bad_value_names_its_flag(flag: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--lamer.{flag} '{value}'"):
        LamerConfig.load({flag: value})


def test_an_unknown_option_lists_those_that_exist(tmp_path: Path) -> None:
    file = tmp_path / "lamer.toml"
    file.write_text("episodes = 5\n")
    with pytest.raises(ConfigError, match=r"--lamer.episodes: no such option.*num_episodes"):
        LamerConfig.load({}, str(file))


def test_options_of_an_estimator_have_a_table_in_the_file_and_reach_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lamer.toml"
    file.write_text("[hgpo]\ndepth = 3\ndepth_power = 0.5\n")
    config = LamerConfig.load({"hgpo.depth": "4"}, str(file))
    assert config.options(advantage.get("lamer_hgpo")) == {"depth": 4, "depth_power": 0.5}
    assert config.options(advantage.get("lamer_gigpo")) == {}
    monkeypatch.setenv(ENV_VAR, config.to_env())
    assert LamerConfig.load() == config
    file.write_text("[hgpo]\nwidth = 3\n")
    with pytest.raises(ConfigError, match=r"--lamer.hgpo.width: no such option"):
        LamerConfig.load({}, str(file))
    for old, new in (
        ("depth", "hgpo.depth"),
        ("depth_power", "hgpo.depth_power"),
        ("step_weight", "gigpo.step_weight"),
    ):
        file.write_text(f"{old} = 1\n")
        with pytest.raises(ConfigError, match=f"--lamer.{old}: no such option. Did you mean --lamer.{new}?"):
            LamerConfig.load({}, str(file))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--lamer.config .*gone.toml"):
        LamerConfig.load({}, str(tmp_path / "gone.toml"))


def test_switches_take_on_and_off() -> None:
    assert LamerConfig.load({"reference": "on", "train_reflection": "off"}).reference
    assert not LamerConfig.load({"train_reflection": "off"}).train_reflection


def test_evaluations_have_episodes_of_their_own() -> None:
    single = LamerConfig.load({"num_episodes": "1", "eval_episodes": "3", "gamma_traj": "0.3"})
    assert single.evaluated() == single.model_copy(update={"num_episodes": 3})
    assert single.num_episodes == 1
    assert LamerConfig(num_episodes=2).evaluated() == LamerConfig(num_episodes=2)
    with pytest.raises(ConfigError, match=r"--lamer.eval_episodes '0'"):
        LamerConfig.load({"eval_episodes": "0"})
