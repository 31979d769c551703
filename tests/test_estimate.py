"""Estimated memory: parameters, states, activations, logits and caches, against tensors and other people's counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openrlhf_lamer.estimate import EstimateError, memory
from openrlhf_lamer.estimate.memory import Engines, Part, Trainer
from openrlhf_lamer.estimate.shapes import SHAPES, Shape, shape_of

PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-1.7B": 1_720_574_976,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
}
"""Parameters that the hub counts in each model's files."""

TINY = Shape(2, 64, 160, 4, 2, 32, 512, tied=True, qk_norm=True)


def qwen3(shape: Shape) -> Any:
    """A Qwen3 of this shape as `transformers` makes it, or a Llama where queries are not normalised."""
    transformers = pytest.importorskip("transformers")
    family = "Qwen3" if shape.qk_norm else "Llama"
    config = getattr(transformers, f"{family}Config")(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
    )
    return getattr(transformers, f"{family}ForCausalLM")(config)


def sizes(parts: list[Part], role: str = "policy") -> Mapping[str, float]:
    """Bytes of a role's parts in training and the step after it."""
    now = {memory.TRAINING, memory.STEPPING}
    return {part.name: part.size for part in parts if part.role == role and part.phases & now}


@pytest.mark.parametrize(("model", "count"), PUBLISHED.items())
def test_parameters_are_those_that_the_hub_counts(model: str, count: int) -> None:
    assert SHAPES[model].parameters == count


@pytest.mark.parametrize("shape", [SHAPES["Qwen/Qwen3-4B"], SHAPES["meta-llama/Llama-3.1-8B-Instruct"], TINY])
def test_parameters_are_those_of_the_modules(shape: Shape) -> None:
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        model = qwen3(shape)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_biases_of_qwen2_count(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.Qwen2Config(
        vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = transformers.Qwen2ForCausalLM(config)
    shape = shape_of(str(tmp_path))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.length == 2048


@pytest.mark.parametrize("modules", [None, ("q_proj", "v_proj")])
def test_an_adapter_has_as_many_parameters_as_in_peft(modules: tuple[str, ...] | None) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=list(modules) if modules else "all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(qwen3(TINY), config)
    assert TINY.adapter(4, modules) == sum(each.numel() for each in adapted.parameters() if each.requires_grad)


def test_states_are_as_large_as_the_tensors_of_a_step() -> None:
    """Weights and gradients of a bfloat16 model, float32 weights and AdamW's moments: measured after a step."""
    torch = pytest.importorskip("torch")
    model = qwen3(TINY).to(torch.bfloat16)
    masters = [parameter.detach().float().requires_grad_() for parameter in model.parameters()]
    optimizer = torch.optim.AdamW(masters)
    model(torch.arange(8)[None]).logits.float().sum().backward()
    for master, parameter in zip(masters, model.parameters(), strict=True):
        master.grad = parameter.grad.float()
    optimizer.step()

    def held(tensors: Any) -> int:
        return sum(each.numel() * each.element_size() for each in tensors)

    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    found = sizes(memory.trained(TINY, Trainer(train_tokens=8)))
    assert found["weights"] == held(model.parameters())
    assert found["gradients"] == held(parameter.grad for parameter in model.parameters())
    assert found["optimizer"] == held(masters) + held(moments)
    in_float32 = held(master.grad for master in masters)
    assert found["gradients in float32"] == in_float32 + found["gradients"]  # the second is a flat copy


def saved(model: Any, tokens: int) -> int:
    """Bytes that autograd keeps for the backward pass of a model's layers, weights left out."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.get_decoder()(input_ids=torch.arange(tokens)[None], use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


@pytest.mark.parametrize("shape", [TINY, replace(TINY, qk_norm=False), replace(TINY, heads=8, intermediate=96)])
def test_a_layer_keeps_what_autograd_saves(shape: Shape) -> None:
    torch = pytest.importorskip("torch")
    deeper = replace(shape, layers=3)
    one, more = (saved(qwen3(each).to(torch.bfloat16), 48) for each in (shape, deeper))
    assert shape.saved(48) == more - one


def test_with_checkpointing_only_inputs_of_layers_are_kept() -> None:
    torch = pytest.importorskip("torch")
    kept = []
    for layers in (2, 3):
        model = qwen3(replace(TINY, layers=layers)).to(torch.bfloat16).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        kept.append(saved(model, 48))
    trainer = Trainer(train_tokens=48, checkpointing=True)
    found = sizes(memory.trained(replace(TINY, layers=1), trainer))
    assert found["activations"] == kept[1] - kept[0] == 48 * 64 * 2


@pytest.mark.parametrize("use", ["train", "train entropy", "score", "score entropy"])
def test_a_logit_takes_as_many_bytes_as_are_alive_at_the_peak(use: str) -> None:
    """Two vocabularies, both with much more logits than anything else, in the pass over a forest."""
    torch = pytest.importorskip("torch")
    from live_memory import LiveMemory

    from openrlhf_lamer.update.model import log_probs

    peaks, predicted = [], 60
    for vocabulary in (8192, 16384):
        torch.manual_seed(0)
        model = qwen3(Shape(1, 32, 64, 1, 1, 32, vocabulary, tied=True, qk_norm=True)).to(torch.bfloat16)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        ids = torch.randint(0, vocabulary, (1, 80))
        mask = (torch.arange(79) >= 79 - predicted).long()[None]
        with LiveMemory() as alive, torch.set_grad_enabled(use.startswith("train")):
            found, entropies = log_probs(model, ids, torch.ones_like(ids), mask, entropy="entropy" in use)
            if use.startswith("train"):
                (found.sum() + (0 if entropies is None else entropies.sum())).backward()
        peaks.append(alive.peak)
    embedding = 8192 * 32 * 2  # the output layer's weight, which counts as its view is made
    bytes_of_one = (peaks[1] - peaks[0] - embedding) / 8192 / predicted
    assert bytes_of_one == pytest.approx(memory.LOGIT[use], rel=0.01)


def test_the_peak_of_a_pass_that_was_measured_on_a_gpu() -> None:
    """docs/update.md: Qwen3-4B on an H200, one micro-batch of 24 rows with replies of 140 tokens, 11.4 GB."""
    trainer = Trainer(train_tokens=8324, predicted=24 * 140 / 8324, checkpointing=True)
    found = sizes(memory.trained(SHAPES["Qwen/Qwen3-4B"], trainer))
    # The first micro-batch has no gradients of weights yet when its logits are alive.
    assert (found["activations"] + found["logits"]) / 1e9 == pytest.approx(11.4, rel=0.1)


@pytest.mark.parametrize(("kv_heads", "tensor_parallel"), [(8, 1), (8, 2), (2, 4)])
def test_the_cache_is_that_of_vllm(kv_heads: int, tensor_parallel: int) -> None:
    torch = pytest.importorskip("torch")
    interface = pytest.importorskip("vllm.v1.kv_cache_interface")
    shape = replace(SHAPES["Qwen/Qwen3-4B"], kv_heads=kv_heads)
    own = max(1, kv_heads // tensor_parallel)
    page = interface.FullAttentionSpec(block_size=16, num_kv_heads=own, head_size=128, dtype=torch.bfloat16)
    assert 16 * shape.cache(tensor_parallel) == shape.layers * page.page_size_bytes


def test_qwen3_4b_by_hand() -> None:
    """8 ranks, ZeRO-2 and ZeRO-3, checkpointing, a micro-batch of 10,000 tokens of which half are predicted."""
    shape, count = SHAPES["Qwen/Qwen3-4B"], 4_022_468_096
    assert shape.cache() == 147_456  # keys and values of 36 layers of 8 heads of width 128, 2 bytes each
    trainer = Trainer(ranks=8, checkpointing=True, train_tokens=10_000, predicted=0.5)
    two = sizes(memory.trained(shape, trainer))
    assert two == {
        "weights": 2 * count,
        "gradient buffer": 1e9,
        "gradients": 2 * count / 8,
        "optimizer": 12 * count / 8,
        "gradients in float32": 6 * count / 8,
        "activations": 36 * 10_000 * 2560 * 2,
        "logits": 5_000 * 151_936 * 20,
    }
    three = sizes(memory.trained(shape, replace(trainer, zero_stage=3)))
    assert three["weights"] == 2 * count / 8
    assert three["gathered weights"] == 2e9
    engines = memory.engine(shape, Engines(share=0.5), 80e9)
    assert [part.size for part in engines] == [2 * count, 40e9 - 2 * count]


@given(
    st.integers(0, 3),
    st.sampled_from([1, 2, 8]),
    st.booleans(),
    st.sampled_from(["layers", "hidden", "intermediate", "heads", "kv_heads", "vocabulary"]),
)
def test_memory_grows_with_every_size(stage: int, ranks: int, checkpointing: bool, size: str) -> None:
    trainer = Trainer(zero_stage=stage, ranks=ranks, checkpointing=checkpointing, train_tokens=100)
    larger = replace(TINY, **{size: 2 * getattr(TINY, size)})
    small, large = (memory.peak(memory.trained(shape, trainer))[1] for shape in (TINY, larger))
    assert small < large
    longer = memory.peak(memory.trained(TINY, replace(trainer, train_tokens=10**6)))[1]
    assert longer > small


@given(st.sampled_from([2, 4, 16]))
def test_zero_divides_by_ranks(ranks: int) -> None:
    divided = {0: (), 1: ("optimizer",), 2: ("optimizer", "gradients"), 3: ("optimizer", "gradients", "weights")}
    for stage, names in divided.items():
        one, many = (sizes(memory.trained(TINY, Trainer(zero_stage=stage, ranks=n))) for n in (1, ranks))
        for name in ("optimizer", "gradients", "weights"):
            assert many[name] == one[name] / (ranks if name in names else 1)


def test_sleep_offload_and_an_adapter_take_the_optimizer_off() -> None:
    shape = SHAPES["Qwen/Qwen3-4B"]
    asleep = memory.trained(shape, Trainer(sleep=True))
    in_rollout = {part.name for part in asleep if memory.ROLLOUT in part.phases}
    assert in_rollout == {"weights"}
    assert memory.on_cpu(asleep, {"policy": shape}, Trainer(sleep=True), Engines()) == 12 * shape.parameters
    offload = Trainer(offload=True)
    assert "optimizer" not in sizes(memory.trained(shape, offload))
    assert memory.on_cpu(memory.trained(shape, offload), {"policy": shape}, offload, Engines()) == 16 * shape.parameters
    critic = memory.trained(TINY, offload, critic=True)
    of_critic = memory.on_cpu(critic, {"critic": TINY}, offload, Engines())
    assert of_critic == 16 * (TINY.parameters + TINY.hidden)  # its own size, not the policy's; tied, so a head is added
    adapted = sizes(memory.trained(shape, Trainer(lora_rank=32)))
    assert adapted["optimizer"] == 12 * shape.adapter(32)
    assert adapted["weights"] == 2 * (shape.parameters + shape.adapter(32))


def test_a_critic_has_no_logits_and_with_sleep_is_trained_first() -> None:
    untied = replace(TINY, tied=False)
    parts = memory.trained(untied, Trainer(sleep=True, checkpointing=True), critic=True)
    assert not any(part.name == "logits" for part in parts)
    (optimizer,) = (part for part in parts if part.name == "optimizer")
    assert optimizer.phases == set(memory.CRITIC_PHASES)
    assert optimizer.size == 12 * (untied.parameters - 512 * 64 + 64)  # a value head in place of the output layer


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "gemma3"}, "layers of gemma3 are not known"),
        ({"model_type": "llama", "hidden_size": 64}, "is no configuration of a model"),
    ],
)
def test_a_model_that_cannot_be_sized_is_named(tmp_path: Path, config: dict[str, Any], said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(EstimateError, match=said):
        shape_of(str(tmp_path))
    with pytest.raises(EstimateError, match=r"none of Qwen/Qwen3-0\.6B"):
        shape_of("nobody/nothing")


def test_a_folder_comes_before_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-4B"
    assert shape_of(str(folder)) == SHAPES["Qwen/Qwen3-4B"]
    pytest.importorskip("transformers")
    qwen3(TINY).config.save_pretrained(folder)
    assert shape_of(str(folder)).parameters == TINY.parameters
