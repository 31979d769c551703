"""The wheel and the sdist: their contents, and the wheel in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from openrlhf_lamer import __version__

pytest.importorskip("build")
pytest.importorskip("hatchling")

ROOT = Path(__file__).parent.parent
NAME = f"openrlhf_lamer-{__version__}"


def run(*command: str | Path, cwd: Path) -> str:
    """Output of a command to which neither this checkout nor settings of ours are known."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OPENRLHF_LAMER_"))}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(source: Path, out: Path, *kinds: str) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", out, source, cwd=out)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, made from this checkout."""
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder, "--sdist", "--wheel")
    return folder


@pytest.fixture(scope="module")
def source(dist: Path) -> Path:
    """The unpacked sdist."""
    with tarfile.open(dist / f"{NAME}.tar.gz") as archive:
        archive.extractall(dist / "unpacked", filter="data")
    return dist / "unpacked" / NAME


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def wheel_of(folder: Path) -> Path:
    return folder / f"{NAME}-py3-none-any.whl"


def test_the_wheel_holds_every_file_of_the_package_and_the_startup_line(dist: Path) -> None:
    package = ROOT / "openrlhf_lamer"
    kept = {file for file in package.rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    found = contents(wheel_of(dist))
    for file in kept:
        assert found.pop(str(file.relative_to(ROOT))) == file.read_bytes()
    assert found.pop("openrlhf_lamer_startup.pth") == (ROOT / "openrlhf_lamer.pth").read_bytes()
    assert all(name.startswith(f"{NAME}.dist-info/") for name in found), found.keys()
    parts = ("py.typed", "prompts/play.j2", "manifests/doors/8-lamp.json", "evaluation/viewer/viewer.js")
    assert {package / part for part in parts} <= kept


def test_the_sdist_holds_the_repository_but_files_for_ci(source: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a checkout of git")
    names = {name for name in tracked.stdout.splitlines() if (ROOT / name).exists()}
    found = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    assert not {name for name in found if name.startswith((".ci/", ".github/", "runs/", "data/", ".venv"))}
    assert {name for name in names if not name.startswith((".ci/", ".github/"))} - found == set()
    assert "PKG-INFO" in found


def test_the_sdist_builds_the_same_wheel(dist: Path, source: Path, tmp_path: Path) -> None:
    build(source, tmp_path, "--wheel")
    assert contents(wheel_of(tmp_path)) == contents(wheel_of(dist))


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


class Environment:
    """A virtual environment that holds nothing; other packages follow this interpreter's, where no `.pth` counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        (self.site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (self.site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(self, program: str, *arguments: str) -> str:
        return run(self.folder / "venv" / "bin" / program, *arguments, cwd=self.folder)

    def pip(self, *arguments: str) -> None:
        python = self.folder / "venv" / "bin" / "python"
        run(sys.executable, "-m", "pip", "--python", str(python), *arguments, cwd=self.folder)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path)


def install(environment: Environment, dist: Path) -> None:
    environment.pip("install", "--quiet", "--no-deps", "--no-index", str(wheel_of(dist)))


def test_an_installed_wheel_works_and_leaves_nothing_behind(environment: Environment, dist: Path) -> None:
    before = files(environment.site.parents[2])
    install(environment, dist)
    imported = environment.run("python", "-c", "import openrlhf_lamer; print(openrlhf_lamer.__file__)")
    assert Path(imported.strip()) == environment.site / "openrlhf_lamer" / "__init__.py"
    assert environment.run("openrlhf-lamer", "--version") == f"openrlhf-lamer {__version__}\n"

    player = ("--player", "random", "--method", "lamer", "--first", "2")
    environment.run("openrlhf-lamer", "eval", "--tasks", "minesweeper/3-mines", *player, "--out", "random")
    environment.run("openrlhf-lamer", "view", "random", "--out", "trials.html")
    assert "You are playing MineSweeper on a board of 6 rows" in (environment.folder / "trials.html").read_text("utf-8")

    environment.pip("uninstall", "--quiet", "--yes", "openrlhf-lamer")
    assert files(environment.site.parents[2]) == before


def test_its_startup_line_makes_the_hosts_command_ours(environment: Environment, dist: Path) -> None:
    pytest.importorskip("openrlhf")
    command = ("-m", "openrlhf.cli.train_ppo_ray", "--agent_func", "openrlhf_lamer.agents.doors", "--help")
    install(environment, dist)
    assert environment.run("python", *command).startswith("usage: python -m openrlhf_lamer.cli.train_ppo_ray")
