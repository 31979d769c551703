"""LoRA: what the engines get, what the reference is, what is trained, and the merged checkpoint."""

from __future__ import annotations

import copy
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from host_stand_ins import torch
from typer.testing import CliRunner

pytest.importorskip("peft")

import openrlhf.models.model as host_model
from openrlhf.models import Actor
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from openrlhf_lamer.cli.main import app
from openrlhf_lamer.integration.launch.launcher import _without_reference
from openrlhf_lamer.integration.training.actors import LamerPolicyActor
from openrlhf_lamer.integration.training.lora import (
    AdapterError,
    AdapterOff,
    MergedModel,
    MergedWeight,
    adapted_critic,
)

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def saved(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Qwen3 in bfloat16."""
    from openrlhf_lamer.warmstart.model import build_model, save

    folder = tmp_path_factory.mktemp("lora") / "base"
    save(build_model(tokenizer, hidden=64, layers=2, heads=2, max_length=256, seed=0), tokenizer, folder)
    return folder


@pytest.fixture
def adapted(saved: Path) -> Callable[..., Any]:
    """Makes the tiny model with an adapter as the host adds it, but one that has an effect from the start."""

    def make(dtype: Any = torch.float32, *, targets: Any = "all-linear", rslora: bool = False) -> Any:
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(saved, dtype=dtype)
        base.enable_input_require_grads()
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=4,
            lora_alpha=12,
            target_modules=targets,
            lora_dropout=0.3,
            bias="none",
            use_rslora=rslora,
        )
        model = get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        return model.to(dtype)  # as DeepSpeed does

    return make


def base_weights(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items() if "lora_" not in name}


@pytest.mark.parametrize("rslora", [False, True])
def test_the_engines_get_what_peft_would_merge_by_the_base_models_names(
    adapted: Callable[..., Any], rslora: bool
) -> None:
    model = adapted(rslora=rslora)
    before = base_weights(model)
    sent = {name: parameter.data for name, parameter in MergedModel(model).named_parameters()}
    assert all(value.equal(base_weights(model)[name]) for name, value in before.items())
    merged = copy.deepcopy(model).merge_and_unload()
    expected = dict(merged.named_parameters())
    assert list(sent) == list(expected)
    assert "model.layers.0.self_attn.q_proj.weight" in sent
    for name, value in expected.items():
        assert torch.equal(sent[name], value.data), name
    changed = {name for name in sent if not torch.equal(sent[name], dict(_base(model).named_parameters())[name])}
    assert len(changed) == 2 * len(LINEAR)


def _base(model: Any) -> Any:
    """The base model without the adapter."""
    return copy.deepcopy(model).unload()


def test_a_weight_is_merged_in_float32_and_sent_in_the_base_models_type(adapted: Callable[..., Any]) -> None:
    model = adapted(torch.bfloat16, targets=["q_proj", "down_proj"])
    exact = copy.deepcopy(model).float().merge_and_unload()
    expected = {name: parameter.data.bfloat16() for name, parameter in exact.named_parameters()}
    sent = dict(MergedModel(model).named_parameters())
    assert set(sent) == set(expected)
    for name, value in expected.items():
        given = sent[name]
        assert (given.dtype, given.shape) == (torch.bfloat16, value.shape)
        assert torch.equal(given.data, value), name
    merged = [value for value in sent.values() if isinstance(value, MergedWeight)]
    assert len(merged) == 4
    assert all(value.is_meta and value.requires_grad for value in merged)  # no memory until `data` is read


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj", "embed_tokens"], r"target_modules: model\.embed_tokens is no linear layer but Embedding"),
        (["q_proj", "lm_head"], r"target_modules: lm_head shares its weight with another layer"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # PEFT warns of tied weights
def test_layers_that_engines_cannot_be_given_are_refused(
    adapted: Callable[..., Any], targets: list[str], message: str
) -> None:
    with pytest.raises(AdapterError, match=message):
        MergedModel(adapted(targets=targets))


class Engine(torch.nn.Module):
    """DeepSpeed's wrapper, as far as the actor looks into it."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def policy_of(model: Any) -> Any:
    """The policy's actor around a model, without DeepSpeed."""
    policy: Any = object.__new__(LamerPolicyActor)
    policy.actor = Actor(Engine(model))
    policy.actor.packing_samples = False
    policy.strategy = SimpleNamespace(ring_attn_group=None)
    return policy


def scored(model: Any, rows: dict[str, Any]) -> Any:
    """Log-probabilities of the rows' last tokens by a plain pass, 0 where they are masked."""
    with torch.no_grad():
        logits = model.eval()(rows["sequences"], attention_mask=rows["attention_mask"]).logits.float()
    found = logits.log_softmax(-1)[:, :-1].gather(-1, rows["sequences"][:, 1:, None]).squeeze(-1)
    return found[:, -rows["action_mask"].shape[1] :] * rows["action_mask"]


def test_the_reference_is_the_policy_before_training_and_only_the_adapter_is_trained(
    adapted: Callable[..., Any], saved: Path
) -> None:
    model = adapted()
    policy = policy_of(model)
    sequences = torch.randint(3, 300, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(sequences)
    rows = {"sequences": sequences, "attention_mask": mask, "action_mask": mask[:, -5:].bool()}
    untouched = scored(AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32), rows)
    before = base_weights(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in trained)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    last = None
    for _ in range(3):
        torch.testing.assert_close(policy.reference_forward(**rows), untouched, rtol=0, atol=1e-5)
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
        now = policy.forward(**rows)
        merged = copy.deepcopy(model).merge_and_unload()
        torch.testing.assert_close(now, scored(merged, rows), rtol=0, atol=1e-4)
        assert (now - untouched).abs().max() > 0.01
        assert last is None or (now - last).abs().max() > 0.01
        last = now
        policy.actor(**rows).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(value.equal(base_weights(model)[name]) for name, value in before.items())


class Group:
    """A host's group, as far as the launcher and the experience maker look into it."""

    def __init__(self, num_nodes: int, num_gpus_per_node: int, ray_actor_type: Any, pg: Any = None) -> None:
        self.made = num_nodes, num_gpus_per_node, ray_actor_type, pg
        self.calls: list[Any] = []

    def async_run_method(self, method_name: str) -> list[str]:
        self.calls.append(method_name)
        return ["done"]

    def async_run_method_batch(self, method_name: str, **batch: Any) -> list[str]:
        self.calls.append((method_name, batch))
        return ["scored"]


def test_the_policys_group_stands_in_for_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    create = _without_reference(Group, "reference")
    policy = create(1, 2, "policy", pg="shared")
    reference = create(1, 2, "reference", pg="shared")
    critic = create(1, 1, "critic")
    assert (policy.made, critic.made) == ((1, 2, "policy", "shared"), (1, 1, "critic", None))
    assert isinstance(reference, AdapterOff)
    assert reference.async_init_model_from_pretrained("strategy", "model") == []
    assert reference.async_run_method_batch(method_name="forward", sequences=[1]) == ["scored"]
    assert reference.async_run_method(method_name="empty_cache") == ["done"]
    assert policy.calls == [("reference_forward", {"sequences": [1]}), "empty_cache"]


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_a_critics_head_is_trained_whole_and_saved(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: Any
) -> None:
    monkeypatch.setattr(host_model, "get_peft_model", adapted_critic)
    critic: Any = host_model.get_llm_for_sequence_regression(
        str(saved),
        "critic",
        attn_implementation="sdpa",
        lora_rank=4,
        target_modules=targets,
        init_value_head=True,
    )
    head = critic.score.modules_to_save["default"]
    assert isinstance(head, torch.nn.Linear)
    trained = [parameter for parameter in critic.parameters() if parameter.requires_grad]
    assert any(parameter is head.weight for parameter in trained)
    assert {parameter.dtype for parameter in trained} == {torch.bfloat16}
    assert sum(parameter.numel() == 64 for parameter in trained) == 1
    assert head.weight.float().std().item() == pytest.approx(1 / 65, rel=0.5)  # as the host draws a new head
    sequences = torch.randint(3, 300, (3, 12))
    mask = torch.ones_like(sequences)
    values = critic(sequences, mask[:, -5:].bool(), mask)
    values.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0
    torch.nn.init.zeros_(head.weight)
    assert critic(sequences, mask[:, -5:].bool(), mask).abs().max() == 0  # values are this head's
    torch.nn.init.constant_(head.weight, 3)
    critic.save_pretrained(tmp_path)
    from safetensors.torch import load_file

    found = load_file(tmp_path / "adapter_model.safetensors")
    assert found["base_model.model.score.weight"].eq(3).all()


@pytest.fixture
def checkpoint(adapted: Callable[..., Any], tokenizer: Any, saved: Path, tmp_path: Path) -> Path:
    """A folder as the host saves it: the adapter, the base model's configuration, the tokenizer."""
    model = adapted(torch.bfloat16)
    folder = tmp_path / "adapter"
    model.save_pretrained(folder)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(saved)
    model.config.to_json_file(folder / "config.json")
    tokenizer.save_pretrained(folder)
    return folder


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_merge_writes_the_model_that_the_engines_played_with(
    checkpoint: Path, saved: Path, adapted: Callable[..., Any], tmp_path: Path
) -> None:
    result = invoke("merge", checkpoint, "--out", tmp_path / "whole")
    assert result.exit_code == 0, result.output
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")
    assert whole.dtype == torch.bfloat16
    sent = {name: parameter.data for name, parameter in MergedModel(adapted(torch.bfloat16)).named_parameters()}
    found = dict(whole.named_parameters())
    assert set(found) == set(sent)
    assert all(torch.equal(found[name], value) for name, value in sent.items())
    kept = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= kept
    assert not any("adapter" in name for name in kept)
    stops = json.loads((saved / "generation_config.json").read_text())["eos_token_id"]
    assert json.loads((tmp_path / "whole" / "generation_config.json").read_text())["eos_token_id"] == stops


def test_a_merged_model_in_float32_scores_as_its_adapter_does(checkpoint: Path, saved: Path, tmp_path: Path) -> None:
    exact = tmp_path / "exact"
    AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32).save_pretrained(exact)
    result = invoke("merge", checkpoint, "--out", tmp_path / "whole", "--base", exact)
    assert result.exit_code == 0, result.output
    ids = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(exact, dtype=torch.float32)
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype="auto")(ids).logits
        plain = base(ids).logits
        apart = PeftModel.from_pretrained(base, str(checkpoint)).eval()(ids).logits
    torch.testing.assert_close(whole, apart, rtol=0, atol=1e-5)
    assert (whole - plain).abs().max() > 0.01


def test_merge_says_what_it_lacks(checkpoint: Path, saved: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((saved, "--out", tmp_path / "x"), "no adapter_config.json there; give the folder that --ckpt.output_dir"),
        ((checkpoint, "--out", saved), "is there already; give a new folder"),
        ((checkpoint, "--out", tmp_path / "x", "--base", tmp_path / "none"), "none is not here; name its folder with"),
    ):
        result = invoke("merge", *arguments)
        assert result.exit_code == 2
        assert message in " ".join(result.output.split())
    config = checkpoint / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": None}))
    result = invoke("merge", checkpoint, "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "names no base model" in result.output
    assert not (tmp_path / "x").exists()


def test_an_adapter_is_no_model_to_play_with(checkpoint: Path, tmp_path: Path) -> None:
    given = ("eval", "--tasks", "minesweeper/3-mines", "--model", checkpoint, "--out", tmp_path / "run")
    given = (*given, "--max-length", 200, "--max-new-tokens", 48)
    result = invoke(*given)
    assert result.exit_code == 2
    assert f"openrlhf-lamer merge {checkpoint} --out FOLDER" in " ".join(result.output.split())


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_two_ranks_of_deepspeed_send_the_merged_weights_and_resume(saved: Path, tmp_path: Path) -> None:
    """The host's actors with ZeRO-2 and with ZeRO-3, and an engine that keeps what it is sent."""
    world = 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("lora_ranks.py")), str(saved), str(tmp_path)]
    logs = [(tmp_path / f"log-{rank}").open("wb") for rank in range(world)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world), str(port)], stdout=log, stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]
    try:
        codes = [rank.wait(800) for rank in ranks]
    finally:
        for rank, log in zip(ranks, logs, strict=True):
            rank.kill()
            log.close()
    assert codes == [0] * world, "\n".join((tmp_path / f"log-{rank}").read_text()[-3000:] for rank in range(world))
    for stage in (2, 3):
        check_ranks(saved, tmp_path, stage, world)


def check_ranks(saved: Path, folder: Path, stage: int, world: int) -> None:
    """Check what the ranks found at a stage of ZeRO."""
    base = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    plain = dict(base.named_parameters())
    found = [torch.load(folder / f"stage-{stage}-rank-{rank}.pt", weights_only=False) for rank in range(world)]
    out = folder / f"stage-{stage}"
    first, *later = found[0]["sent"]
    assert list(first) == list(plain)
    assert all(value.equal(plain[name]) for name, value in first.items())  # adapters start without effect
    last = first
    for sent in later:
        assert {name for name in sent if not sent[name].equal(last[name])} == {n for n in plain if "_proj." in n}
        last = sent
    exact = PeftModel.from_pretrained(base.float(), str(out / "out")).merge_and_unload()
    for name, parameter in exact.named_parameters():
        assert last[name].equal(parameter.data.bfloat16()), name
    assert all(value.equal(found[0]["resumed"][name]) for name, value in last.items())
    assert all(each["states"]["global_step"] == 4 for each in found)
    engine = AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    engine.load_state_dict(last, strict=False)
    for each in found:
        scores = [*each["scored"], *each["scored again"]]
        untouched = scores[0]["policy"]
        assert all(score["reference"].equal(untouched) for score in scores)
        assert (scores[1]["policy"] - untouched).abs().max() > 0.02
        (before, again) = each["scored"][-1]["policy"], each["scored again"][0]["policy"]
        torch.testing.assert_close(again, before, rtol=0, atol=0)
        moved = (before - untouched).abs().mean()
        assert (scored(engine, each["rows"]) - before).abs().mean() < moved / 4  # the engine's type rounds
        assert (each["values"][-1] - each["values"][0]).abs().max() > 0.01
    before, after = (
        _adapter(out / name)["base_model.model.score.weight"] for name in ("out_critic_before", "out_critic")
    )
    assert not before.equal(after)


def _adapter(folder: Path) -> dict[str, Any]:
    """Weights of a saved adapter, in the form that ZeRO-2 or ZeRO-3 leaves."""
    from peft.utils import load_peft_weights

    return load_peft_weights(str(folder), device="cpu")
