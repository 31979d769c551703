"""Estimators by name, plugins, and what importing them may load."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

import openrlhf_lamer
from openrlhf_lamer.advantage import CreditConfig, TurnTable, get, names, register, registry, with_returns
from openrlhf_lamer.advantage.table import FloatArray

OURS = {"lamer_gigpo", "lamer_grpo", "lamer_hgpo", "lamer_pkpo", "lamer_ppo", "lamer_reinforce", "lamer_rloo"}


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """Each test registers for itself, and loads plugins again."""
    with registry.scoped():
        yield


def two_turns() -> TurnTable:
    zeros = [0, 0]
    table = TurnTable(
        group=np.array(zeros),
        trial=np.array([0, 1]),
        episode=np.array(zeros),
        turn=np.array(zeros),
        phase=np.array(zeros),
        reward=np.array([0.0, 10.0]),
        anchor=np.array(zeros),
    )
    return with_returns(table, CreditConfig())


def test_ours_are_known() -> None:
    assert set(names()) >= OURS
    norms = {name: get(name).norm for name in OURS}
    assert norms == {
        "lamer_gigpo": "mean",
        "lamer_grpo": "mean_std",
        "lamer_hgpo": "mean",
        "lamer_pkpo": "mean",
        "lamer_ppo": "mean",
        "lamer_rloo": "mean",
        "lamer_reinforce": "mean_std",
    }
    assert {name for name in OURS if get(name).needs_critic} == {"lamer_ppo"}
    assert {name for name in OURS if not get(name).needs_group} == {"lamer_ppo"}
    assert {name for name in OURS if get(name).chained_only} == {"lamer_ppo"}


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown estimator 'lamer_gipo'. Did you mean 'lamer_gigpo'\? Known: .*rloo"):
        get("lamer_gipo")
    with pytest.raises(ValueError, match=r"unknown estimator 'xyz'\. Known") as error:
        get("xyz")
    assert "Did you mean" not in str(error.value)


def test_register_fills_in_what_the_configuration_leaves_open() -> None:
    seen = []

    @register("other", norm="mean_std", needs_group=False)
    def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
        """Its purpose."""
        seen.append((config.norm, config.cross_episode))
        return table.returns

    assert get("other").estimate is estimate
    assert estimate.__doc__ == "Its purpose."
    assert (get("other").norm, get("other").needs_group, get("other").needs_critic) == ("mean_std", False, False)
    estimate(two_turns(), CreditConfig())
    estimate(two_turns(), CreditConfig(norm="mean", cross_episode="chained"))
    assert seen == [("mean_std", "paper"), ("mean", "chained")]


def test_an_estimator_with_a_critic_has_values_and_gives_targets() -> None:
    @register("other", targets=lambda table, config: table.returns)
    def estimate(table: TurnTable, config: CreditConfig) -> FloatArray:
        assert table.values is not None
        return table.returns - table.values

    assert get("other").needs_critic
    targets = get("other").targets
    assert targets is not None
    for function in (estimate, targets):
        with pytest.raises(ValueError, match="other needs the critic's value of every turn"):
            function(two_turns(), CreditConfig())
    table = replace(two_turns(), values=np.array([1.0, 2.0]))
    assert estimate(table, CreditConfig()).tolist() == [-1, 8]
    assert targets(table, CreditConfig()).tolist() == [0, 10]


def test_a_chained_estimator_refuses_the_papers_form() -> None:
    register("other", chained_only=True)(lambda table, config: table.returns)
    assert get("other").settle(CreditConfig()).cross_episode == "chained"
    for form in ("chained", "difference"):
        assert get("other").settle(CreditConfig(cross_episode=form)).cross_episode == form
    for refused in (get("other").settle, lambda config: get("other").estimate(two_turns(), config)):
        with pytest.raises(ValueError, match=r"--lamer.cross_episode paper: other .* Eq\. 4 is no such recursion"):
            refused(CreditConfig(cross_episode="paper"))


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="'lamer_grpo' already"):
        register("lamer_grpo")(lambda table, config: table.returns)


def test_options_may_depend_on_each_other_and_have_a_prefix_of_one_estimator() -> None:
    @dataclass(frozen=True)
    class Range:
        low: int = 0
        high: int = 1

        def __post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError("low exceeds high")

    register("ranged", options=Range)(lambda table, config, options: table.returns * options.high)
    assert get("ranged").estimate(two_turns(), CreditConfig(options={"high": "3"})).tolist() == [0, 30]
    with pytest.raises(ValueError, match=r"--lamer.ranged.\* {'low': 2}: .*low exceeds high"):
        get("ranged").settle(CreditConfig(options={"low": 2}))
    with pytest.raises(ValueError, match="'ranged' already"):
        register("lamer_ranged", options=Range)(lambda table, config, options: table.returns)


def test_misaligned_or_infinite_advantages_raise() -> None:
    config = CreditConfig()
    with pytest.raises(ValueError, match=r"shape \(1,\) for 2 turns"):
        register("short")(lambda table, config: table.returns[1:])(two_turns(), config)
    with pytest.raises(ValueError, match="not finite"):
        register("infinite")(lambda table, config: table.returns + np.inf)(two_turns(), config)


def test_returns_must_be_filled_in() -> None:
    table = replace(two_turns(), returns=np.empty(0))
    with pytest.raises(ValueError, match="with_returns"):
        get("lamer_grpo").estimate(table, CreditConfig())


def use_plugins(monkeypatch: pytest.MonkeyPatch, *plugins: EntryPoint) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in plugins if p.group == group])


def test_a_plugin_adds_an_estimator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "lamer_plugin_for_test.py").write_text(
        "from openrlhf_lamer.advantage import register\n"
        "@register('theirs', norm='mean')\n"
        "def estimate(table, config):\n"
        "    return table.returns\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    use_plugins(monkeypatch, EntryPoint("theirs", "lamer_plugin_for_test", registry.ENTRY_POINTS))
    assert "theirs" in names()
    assert get("theirs").estimate(two_turns(), CreditConfig()).tolist() == [0, 10]


def test_a_broken_plugin_warns_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    use_plugins(monkeypatch, EntryPoint("theirs", "no_such_module_of_theirs", registry.ENTRY_POINTS))
    with pytest.warns(UserWarning, match="plugin 'theirs' .*no_such_module_of_theirs"):
        assert set(names()) >= OURS
    assert get("lamer_grpo").name == "lamer_grpo"


def test_importing_it_is_light() -> None:
    heavy = ["torch", "ray", "vllm", "openrlhf", "pydantic"]
    code = (
        "import sys, openrlhf_lamer.advantage as a; a.names(); "
        f"loaded = [name for name in {heavy} if name in sys.modules]; assert not loaded, loaded"
    )
    root = str(Path(openrlhf_lamer.__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": root})
