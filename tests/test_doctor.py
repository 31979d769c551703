"""`openrlhf-lamer doctor`: every check on what is right and on what is broken."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrlhf_lamer.cli import doctor as command
from openrlhf_lamer.cli.main import app
from openrlhf_lamer.config import LamerConfig
from openrlhf_lamer.doctor import Check, Verdict, data, error, machine, model, ok, told, warning
from openrlhf_lamer.envs.webshop import stored
from openrlhf_lamer.integration import host
from openrlhf_lamer.integration.cluster import Cluster, Node
from openrlhf_lamer.integration.host import HostError
from openrlhf_lamer.integration.launch import diagnosis

DATA = Path(__file__).parent / "data"
OK, WARNING, ERROR = Verdict.OK, Verdict.WARNING, Verdict.ERROR
GIB = machine.GIB
HEAD = Node(8, 0)
REAL, LOGICAL = Cluster((HEAD, *[Node(64, 8, True)] * 2)), Cluster((Node(48, 4),))


def expect(check: Check, verdict: Verdict, *parts: str) -> None:
    """A verdict, words in what was found or in the remedy, and a remedy exactly where one is needed."""
    assert check.verdict is verdict, check
    assert bool(check.remedy) == (verdict is not OK), check
    for part in parts:
        assert part in f"{check.found} | {check.remedy}", check


def test_a_message_of_ours_is_parted_into_what_was_found_and_what_to_do() -> None:
    assert told("x", ERROR, ValueError("a; b is missing; run c")) == Check("x", ERROR, "a; b is missing", "run c")
    expect(told("x", ERROR, ValueError("broken")), ERROR, "broken")


@pytest.mark.parametrize(
    ("check", "verdict", "part"),
    [
        (machine.python((3, 11)), OK, "3.11"),
        (machine.python((3, 13)), ERROR, "3.11 or 3.12"),
        (machine.memory(20 * GIB), OK, "20.0 GiB"),
        (machine.memory(8 * GIB), WARNING, "12.0 GiB at its peak"),
        (machine.memory(2 * GIB), WARNING, "6.0 GiB"),
        (machine.memory(None), WARNING, "/proc/meminfo"),
        (machine.shared_memory(8 * GIB), OK, "8.0 GiB"),
        (machine.shared_memory(1 << 26), WARNING, "--shm-size"),
        (machine.shared_memory(None), WARNING, "no /dev/shm"),
        (machine.disk("d", 50 * GIB, 99 * GIB, 7 * GIB), OK, "50.0 GiB of 99.0 GiB"),
        (machine.disk("d", 50 * GIB, 99 * GIB, 8 * GIB), WARNING, "takes 56.0 GiB: --ckpt.path"),
        (machine.disk("d", GIB // 2, 99 * GIB), ERROR, "make room"),
        (machine.ray_disk("d", 10 * GIB, 100 * GIB), OK, "10.0 GiB"),
        (machine.ray_disk("d", 4 * GIB, 100 * GIB), WARNING, "RAY_TMPDIR"),
        (diagnosis.mode(8, usable=True, torch="2.13.0", joined=None), OK, "8 devices"),
        (diagnosis.mode(8, usable=True, torch="2.13.0+cpu", joined=None), ERROR, "pip install"),
        (diagnosis.mode(0, usable=False, torch="2.13.0", joined=REAL), OK, "other nodes"),
        (diagnosis.mode(0, usable=False, torch="2.13.0+cpu", joined=LOGICAL), OK, "CPU mode"),
        (diagnosis.mode(0, usable=False, torch="2.13.0", joined=None), WARNING, "make venv"),
        (diagnosis.mode(2, usable=False, torch="2.13.0+cpu", joined=None), OK, "2 CUDA devices hidden"),
        (diagnosis.compilers("/c++", None, built=False, cpu_mode=True), OK, "/c++"),
        (diagnosis.compilers(None, None, built=True, cpu_mode=True), OK, "are compiled"),
        (diagnosis.compilers(None, None, built=False, cpu_mode=True), ERROR, "g++"),
        (diagnosis.compilers("/c++", "/nvcc", built=False, cpu_mode=False), OK, "/nvcc"),
        (diagnosis.compilers("/c++", None, built=False, cpu_mode=False), WARNING, "CUDA_HOME"),
        (diagnosis.ray(REAL, cpu_mode=False), OK, "3 nodes (8 CPUs, 0 GPUs; 2 × 64 CPUs, 8 GPUs)"),
        (diagnosis.ray(LOGICAL, cpu_mode=True), OK, "logical"),
        (diagnosis.ray(None, cpu_mode=True), OK, "starts one of its own"),
        (diagnosis.ray(Cluster((HEAD,)), cpu_mode=True), ERROR, "--num-gpus 4"),
        (diagnosis.ray(Cluster((HEAD,)), cpu_mode=False), ERROR, "add nodes with GPUs"),
        (diagnosis.ray(Cluster((HEAD, Node(4, 8, True))), cpu_mode=False), WARNING, "--num-cpus"),
    ],
)
def test_what_is_found_is_judged(check: Check, verdict: Verdict, part: str) -> None:
    expect(check, verdict, part)


def test_memory_within_a_container(tmp_path: Path) -> None:
    assert machine.available_memory(tmp_path, tmp_path) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   4096 kB\n")
    assert machine.available_memory(tmp_path, tmp_path) == 4 << 20
    (tmp_path / "memory.max").write_text(f"{2 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{1 << 20}\n")
    assert machine.available_memory(tmp_path, tmp_path) == 1 << 20
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory(tmp_path, tmp_path) == 4 << 20


def test_versions_of_the_stack() -> None:
    pytest.importorskip("packaging")
    versions = {"torch": "2.13.0+cpu", "ray": "2.40.0", "vllm": "0.29.0", "deepspeed": "0.19.6"}
    pins = {"ray": "==2.55.0", "vllm": "==0.29.0", "deepspeed": "==0.19.6"}
    found = {check.name: check for check in diagnosis.stack(versions, pins, cpu_mode=True)}
    expect(found["ray"], WARNING, "2.40.0", "==2.55.0")
    expect(found["vllm"], OK)
    expect(found["torch"], OK)
    expect(found["transformers"], ERROR, "not installed")
    assert "flash-attn" not in found
    expect(diagnosis.stack(versions, pins, cpu_mode=False)[-1], ERROR, "not installed")


def test_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openrlhf")
    expect(diagnosis.host(), OK, "0.11.2")
    assert diagnosis._pins()["ray"] == "==2.55.0"
    monkeypatch.setattr(host, "host_version", lambda: "0.99.0")
    expect(diagnosis.host(), WARNING, "0.99.0 is untested")

    def gone() -> None:
        raise HostError("OpenRLHF is not installed")

    monkeypatch.setattr(diagnosis, "probe", gone)
    expect(diagnosis.host(), ERROR, "not installed", "openrlhf==0.11.2")


@pytest.fixture
def data_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path | None], Check]:
    """The one check of an environment's data, with its variable set to a folder or not set."""

    def look(env: str, folder: Path | None) -> Check:
        variable = f"{env.upper()}_DATA"
        monkeypatch.delenv(variable, raising=False)
        if folder is not None:
            monkeypatch.setenv(variable, str(folder))
        (check,) = data.checks(env)
        return check

    return look


def test_alfworlds_data(tmp_path: Path, data_of: Callable[[str, Path | None], Check]) -> None:
    if data_of("alfworld", None).verdict is WARNING:
        pytest.skip("alfworld is not installed")
    expect(data_of("alfworld", None), OK, "generated games")
    expect(data_of("alfworld", tmp_path), ERROR, "json_2.1.1", "alfworld-download")
    (tmp_path / "json_2.1.1").mkdir()
    expect(data_of("alfworld", tmp_path), ERROR, "no games")
    expect(data_of("alfworld", DATA / "alfworld"), WARNING, "valid_seen 6 of 140", "train 0 of 3553")


def test_webshops_data(tmp_path: Path, data_of: Callable[[str, Path | None], Check]) -> None:
    if data_of("webshop", None).verdict is WARNING:
        pytest.skip("the extra webshop is not installed")
    expect(data_of("webshop", None), OK, "synthetic")
    expect(data_of("webshop", tmp_path / "gone"), ERROR, "no folder")
    folder = tmp_path / "shop"
    shutil.copytree(DATA / "webshop", folder)
    expect(data_of("webshop", folder), ERROR, "not been prepared", "prepare webshop", "--goals generated")
    stored.prepare(folder, None, "human")
    expect(data_of("webshop", folder), OK, "human goals")
    with (folder / "openrlhf-lamer-human-all" / "goals.jsonl").open("a") as file:
        file.write("x")
    expect(data_of("webshop", folder), ERROR, "size", "prepare webshop")


def test_only_environments_with_data_are_looked_at() -> None:
    assert [check.name for check in data.checks()] == ["ALFWorld's data", "WebShop's data"]
    assert data.checks("sokoban") == data.checks("chess") == []


def test_agents(tmp_path: Path) -> None:
    check, env = data.agent("openrlhf_lamer.agents.sokoban")
    expect(check, OK)
    assert env == "sokoban"
    expect(data.agent("openrlhf_lamer.agents.chess")[0], ERROR, "no module")
    (tmp_path / "agent.py").write_text("1 / 0")
    expect(data.agent(str(tmp_path / "agent.py"))[0], ERROR, "ZeroDivisionError")


def test_each_of_several_agents_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "checks", lambda env: [ok("data", f"data of {env}")])
    monkeypatch.setattr(diagnosis, "checks", list)
    names = "openrlhf_lamer.agents.sokoban, openrlhf_lamer.agents.doors"
    found = [check.found for check in command.run(names, None, LamerConfig(), 1024, None)]
    for env in ("sokoban", "doors"):
        assert f"its environment {env} opens" in found
        assert f"data of {env}" in found
    assert sum("--data.max_len" in each for each in found) == 2


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    """A model's folder with a tokenizer, and eight bytes of weights."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 512, "model_type": "qwen3"}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    return tmp_path


def test_a_model_of_the_hub_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def asked(self: Any, model: str, timeout: float) -> None:
        if model != "somebody/something":
            raise OSError("404 there")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    assert model.reach("somebody/something", offline=False).verdict is Verdict.OK
    found = model.reach("nobody/nothing", offline=False)
    assert found.verdict is Verdict.ERROR
    assert found.found == "nobody/nothing is no folder, not in the cache, and could not be found on the hub (404 there)"
    assert model.reach("somebody/something", offline=True).verdict is Verdict.ERROR


def test_a_sound_model(folder: Path) -> None:
    checks, size = model.checks(str(folder), LamerConfig(), offline=True)
    assert [check.verdict for check in checks] == [OK] * 7, checks
    assert size == (folder / "model.safetensors").stat().st_size


def test_broken_files_of_a_model(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken, words in ((whole[:-1], "half downloaded"), (b"version https://git-lfs", "Git LFS"), (b"", "LFS")):
        weights.write_bytes(broken)
        expect(model.files(folder), ERROR, words)
    weights.unlink()
    expect(model.files(folder), ERROR, "no weights")
    (folder / model.INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    expect(model.files(folder), ERROR, "a.safetensors: it is missing")
    (folder / "config.json").write_text("{")
    expect(model.files(folder), ERROR, "can't be read")
    (folder / "config.json").unlink()
    expect(model.files(folder), ERROR, "no config.json")


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    check, tokenizer = model.load_tokenizer(tmp_path)
    expect(check, ERROR, "can't be loaded")
    assert tokenizer is None


def test_a_model_that_is_not_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    for offline, verdict in ((True, ERROR), (False, WARNING)):
        check, found = model.find("nobody/nothing-of-this-name", offline=offline)
        assert check is not None
        assert found is None
        expect(check, verdict, "not in the cache", "hf download")


def test_chat_templates(tokenizer: Any) -> None:
    def verdicts(template: str | None, **config: Any) -> dict[str, Verdict]:
        changed = copy.deepcopy(tokenizer)
        changed.chat_template = template
        return {check.name: check.verdict for check in model.conversation(changed, LamerConfig(**config))}

    sound = tokenizer.chat_template
    opening = "{% if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
    switched = opening.replace("{% if ", "{% if enable_thinking is not defined and ")
    assert verdicts(sound) == verdicts(sound + switched) == {model.TEMPLATE: OK, model.THINKING: OK}
    assert verdicts(sound + opening) == {model.THINKING: ERROR}
    assert verdicts(sound + opening, thinking=True) == {model.TEMPLATE: OK, model.THINKING: OK}
    assert verdicts(sound, thinking=True) == {model.THINKING: ERROR}
    assert verdicts(None) == verdicts("{{ 1 / 0 }}") == verdicts("x") == {model.TEMPLATE: ERROR}


def test_special_tokens(tokenizer: Any) -> None:
    def verdicts(rows: int = 512, stops: int | None = None, **tokens: str | None) -> list[Verdict]:
        changed = copy.deepcopy(tokenizer)
        for name, token in tokens.items():
            setattr(changed, name, token)
        checks = model.special_tokens(changed, {"vocab_size": rows}, {} if stops is None else {"eos_token_id": stops})
        return [check.verdict for check in checks]

    assert verdicts() == [OK, OK, OK]
    assert verdicts(rows=8) == [OK, OK, ERROR]
    assert verdicts(pad_token=None) == [OK, WARNING, OK]
    assert verdicts(eos_token=None)[0] is ERROR
    assert verdicts(eos_token=tokenizer.pad_token)[0] is WARNING
    assert verdicts(eos_token=tokenizer.pad_token, stops=tokenizer.eos_token_id)[0] is OK


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [ok("a", "[red]fine"), warning("b", "slow", "wait")]
    monkeypatch.setattr(command, "run", lambda *_: checks)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 0
    assert "[red]fine" in shown.stdout
    checks.append(error("c", "gone", "get it"))
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
    as_json = CliRunner().invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)[2] == {"name": "c", "verdict": "error", "found": "gone", "remedy": "get it"}


def test_all_of_it_at_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    arguments = ["doctor", "--json", "--agent-func", "openrlhf_lamer.agents.minesweeper", "--model", str(folder)]
    result = CliRunner().invoke(app, arguments)
    found = {each["name"]: each["verdict"] for each in json.loads(result.stdout)}
    assert found["agent openrlhf_lamer.agents.minesweeper"] == found["model files"] == "ok"
    assert "ALFWorld's data" not in found
    assert result.exit_code == 1  # for Ray, or because nothing of the host is installed
