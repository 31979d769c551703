"""The help of the training command: ours in full, and the host's on request, with choices and defaults."""

from __future__ import annotations

import re

import pytest
from commands import command

from openrlhf_lamer import advantage
from openrlhf_lamer.config import LamerConfig

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration import host


def texts(flag: str) -> dict[str, str]:
    """The help that `flag` prints: each option's text in one line, by its name."""
    result = command([flag], COLUMNS="100")
    assert (result.returncode, result.stderr) == (0, "")
    parts = re.split(r"^  (?:-h, )?--([\w.-]+)", result.stdout, flags=re.MULTILINE)
    return {name: " ".join(text.split("\n\n")[0].split()) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.fixture(scope="module")
def ours() -> dict[str, str]:
    return texts("--help")


@pytest.fixture(scope="module")
def theirs() -> dict[str, str]:
    return texts("--help-host")


def typed(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def test_each_option_lists_its_choices_and_its_default(ours: dict[str, str]) -> None:
    schema = LamerConfig.model_json_schema()["properties"]
    assert len(schema) > 25
    for name, field in schema.items():
        text = ours[f"lamer.{name}"]
        kinds = field.get("anyOf", [field])
        listed = [value for kind in kinds for value in kind.get("enum", ())]
        if {"type": "boolean"} in kinds or field.get("type") == "boolean":
            listed = ["on", "off"]
        assert re.findall(r"\{([\w,]+)\}", text.split(" ")[0]) == ([",".join(listed)] if listed else []), name
        if field["default" if "default" in field else "title"] in (None, field["title"]):
            assert re.search(r"[Bb]y default", text) or text.endswith("Default: {}."), name
        else:
            assert text.endswith(f"Default: {typed(field['default'])}."), name


def test_options_of_estimators_have_their_defaults(ours: dict[str, str]) -> None:
    for name in advantage.names():
        estimator = advantage.get(name)
        for option, info in estimator.fields.items():
            assert ours[f"lamer.{estimator.flag(option)}"].endswith(f"Default: {info.default}.")


def test_of_the_hosts_flags_help_shows_what_a_run_needs(ours: dict[str, str]) -> None:
    others = {name for name in ours if not name.startswith("lamer.")} - {"agent_func", "help", "help-host"}
    assert others == {*host.DEFAULTS, "actor.model_name_or_path", "data.prompt_dataset", "eval.dataset", "eval.steps"}
    assert ours["rollout.batch_size"].endswith("Default: 16 (OpenRLHF's own: 1024).")
    assert ours["data.max_len"].endswith("OpenRLHF's own default: 2048.")
    assert all(name in ours["algo.advantage.estimator"].split(" ")[0] for name in advantage.names())


def test_the_hosts_help_has_all_its_flags_and_its_own_defaults(theirs: dict[str, str]) -> None:
    actions = {action.option_strings[-1].removeprefix("--"): action for action in host.host_parser()._actions}
    assert theirs.keys() == actions.keys()
    for name, action in actions.items():
        if action.nargs != 0 and isinstance(action.default, int | float) and name not in host.DEFAULTS:
            assert f"Default: {typed(action.default)}" in theirs[name], name
    assert theirs["actor.num_gpus_per_node"].endswith("Default: 8, in CPU mode 1.")
    assert theirs["vllm.enable_prefix_caching"].endswith("Default: on (OpenRLHF's own: off).")
    for switch, default in (("nesterov", "on"), ("no_nesterov", "off")):
        assert theirs[f"actor.muon.{switch}"] == f"Default: {default}."
    assert theirs["ds.overlap_comm"] == "Default: off."
    assert not any(name.startswith("lamer.") for name in theirs)


def test_the_hosts_help_says_which_flags_are_refused(theirs: dict[str, str]) -> None:
    told = {name for name, text in theirs.items() if "Refused" in text}
    assert told == {*host.REFUSED, *host.REFUSED_WITH_LORA, *host.REFUSED_WITH_OURS}
    assert theirs["reward.remote_url"].endswith("Refused; rewards come from the environment.")
    assert theirs["ref.offload"].partition("Refused with --ds.lora.rank; ")[2].startswith("no reference is loaded")


def test_the_short_form_shows_the_same(ours: dict[str, str]) -> None:
    assert texts("-h") == ours
