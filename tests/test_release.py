"""Files of a release: version, workflow and Dockerfiles, which agree with what they are made for."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from openrlhf_lamer import __version__

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))


def test_the_changelog_begins_with_this_version() -> None:
    heads = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert re.fullmatch(rf"{re.escape(__version__)} - \d{{4}}-\d\d-\d\d", heads[0])


def release() -> dict[str, Any]:
    path = ROOT / ".github" / "workflows" / "release.yml"
    if not path.exists():
        pytest.skip("an sdist has no workflows")
    return yaml.safe_load(path.read_text("utf-8"))


def test_workflows_use_actions_of_one_major_version() -> None:
    used = [use for file in WORKFLOWS for use in re.findall(r"uses: (\S+)", file.read_text("utf-8"))]
    assert len(used) >= 6 or not WORKFLOWS
    assert [use for use in used if not re.fullmatch(r"[\w./-]+@(v\d+|release/v\d+)", use)] == []


def test_only_publishing_may_do_more_than_read_and_follows_the_tests() -> None:
    workflow = release()
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert {name: job["permissions"] for name, job in jobs.items() if "permissions" in job} == {
        "publish": {"id-token": "write"}
    }
    assert (jobs["publish"]["needs"], jobs["test"]["needs"]) == ("test", "build")
    assert jobs["publish"]["if"] == "github.ref_type == 'tag'"


def text(file: Path) -> str:
    """A Dockerfile with its continued lines joined."""
    return file.read_text("utf-8").replace("\\\n", " ")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_images_have_a_pinned_base_and_an_ordinary_user(file: Path) -> None:
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+-[\w.-]+", re.findall(r"^FROM (.+)$", text(file), re.MULTILINE)[0])
    (user,) = re.findall(r"^USER (\d+)$", text(file), re.MULTILINE)
    assert f"useradd --create-home --uid {user} lamer" in text(file)
    after = text(file).split(f"USER {user}\n")[1]
    assert "apt-get" not in after
    assert set(re.findall(r"--chown=(\d+)", after)) == {user}
    assert after.count("COPY ") == after.count("COPY --chown")


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_what_images_copy_is_in_their_context(file: Path) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copied = [
        name for line in re.findall(r"COPY --chown=\d+ (.+) \S+$", text(file), re.MULTILINE) for name in line.split()
    ]
    assert "." in copied
    assert set(copied) - {"."} <= set(kept)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    built = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    built |= {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "openrlhf_lamer.pth", "requirements"}
    assert built == set(kept)
    assert all((ROOT / name).exists() for name in kept)


def pins(command: str) -> dict[str, str]:
    """Versions that a text pins by `name==version`."""
    return dict(re.findall(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", command))


def test_the_image_and_the_readme_install_what_the_host_requires() -> None:
    pytest.importorskip("openrlhf")
    wanted = {"openrlhf": "0.11.2"}
    for line in requires("openrlhf") or ():
        requirement = Requirement(line)
        if requirement.name in ("vllm", "flash-attn") and str(requirement.specifier).startswith("=="):
            wanted[requirement.name] = str(requirement.specifier).removeprefix("==")
    assert len(wanted) == 3
    (extra,) = re.findall(r'^gpu = \["([^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert pins(extra) == {"openrlhf": wanted["openrlhf"]}
    image = pins(text(ROOT / "docker" / "Dockerfile.gpu"))
    assert {name: image[name] for name in wanted} == wanted
    readme = pins((ROOT / "README.md").read_text("utf-8"))
    assert readme == {name: wanted[name] for name in ("vllm", "flash-attn")}


def test_the_image_for_the_cpu_has_the_torch_of_its_requirements() -> None:
    image = pins(text(ROOT / "docker" / "Dockerfile.cpu"))
    assert image["torch"] == pins((ROOT / "requirements" / "cpu.txt").read_text("utf-8"))["torch"]
    assert 'CMD ["openrlhf-lamer", "quickstart"]' in text(ROOT / "docker" / "Dockerfile.cpu")
