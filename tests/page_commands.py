"""Shell commands on pages, each parsed by the program that it calls, without starting anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from packaging.requirements import Requirement
from page_blocks import ROOT

from openrlhf_lamer import advantage, recipes
from openrlhf_lamer.cli.main import app

TRAINING = ("openrlhf.cli.train_ppo_ray", "openrlhf_lamer.cli.train_ppo_ray")

SHORTENED = (
    *("--agent_func", "openrlhf_lamer.agents.sokoban", "--actor.model_name_or_path", "Qwen/Qwen3-4B"),
    *("--data.prompt_dataset", "data/sokoban/train.jsonl"),
)
"""Flags that every training needs, in place of the `...` of a command."""

MARK = re.compile(r"# needs (a GPU|a cluster|data|network)\b")
"""First line of a block that no test can run: commands of programs that are not ours are taken as they are."""

BUILTINS = frozenset({"bash", "cd", "export", "set"})


class UnknownCommandError(Exception):
    """A page names a command, a flag or a file that does not exist."""


def commands(block: str) -> Iterator[list[str]]:
    """The commands of a block, as words, without redirections."""
    for line in block.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        redirected = False
        for word in lexer:
            if set(word) <= set("|&;"):
                yield words
                words = []
            elif not redirected and not set(word) <= set("<>"):
                words.append(word)
            redirected = set(word) <= set("<>")
        yield words


def check_block(block: str) -> int:
    """Check the commands of a block, and give their number.

    Raises:
        UnknownCommandError: naming a command that no program takes, or one that is not ours in an unmarked block.
    """
    found = [words for words in commands(block) if words]
    for words in found:
        program = Path(words[0]).name if words[0].startswith(".venv/bin/") else words[0]
        check = CHECKS.get(program)
        if check is not None:
            check(words[1:])
        elif program not in BUILTINS and not MARK.match(block):
            raise UnknownCommandError(f"{shlex.join(words)}: not a program of ours; the block needs a mark")
    return len(found)


def _ours(arguments: Sequence[str]) -> None:
    """`openrlhf-lamer ...`, parsed but not run."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    rest = list(arguments)
    while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        found = command.get_command(command.context_class(command, parent=context), name)
        if found is None:
            raise UnknownCommandError(f"openrlhf-lamer has no command {name}")
        command = found
    try:
        context = command.make_context(command.name, rest)
    except Exception as error:  # an error of the parser, whose classes are private to Typer
        raise UnknownCommandError(f"openrlhf-lamer {shlex.join(arguments)}: {error}") from error
    if arguments[0] == "train":
        _training(recipes.resolve(recipes.read(context.params["recipe"]), context.args, context.params["run"]))


def _training(arguments: Sequence[str]) -> None:
    """The training command's own flags and the host's, and whether they go together."""
    from openrlhf_lamer.integration.launch.checks import check
    from openrlhf_lamer.integration.launch.flags import parse

    given = [word for word in arguments if word != "..."]
    check(parse([*SHORTENED, *given] if "..." in arguments else given, advantage.names(), {}))


def _python(arguments: Sequence[str]) -> None:
    """A module or a script of the repository, with options that its source names."""
    if arguments[0] == "-m":
        if arguments[1] in TRAINING:
            _training(arguments[2:])
        elif find_spec(arguments[1]) is None:
            raise UnknownCommandError(f"there is no module {arguments[1]}")
        return
    path = ROOT / arguments[0]
    file = path / "__main__.py" if path.is_dir() else path
    if not file.is_file():
        raise UnknownCommandError(f"there is no script {arguments[0]}")
    source = file.read_text("utf-8")
    for word in arguments[1:]:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and not re.search(rf"--{name}\b|\b{name.replace('-', '_')}:", source):
            raise UnknownCommandError(f"{arguments[0]} has no option {word}")


def _make(arguments: Sequence[str]) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    if unknown := [word for word in arguments if "=" not in word and word not in targets]:
        raise UnknownCommandError(f"make has no target {unknown[0]}")


def _pip(arguments: Sequence[str]) -> None:
    """An installation of this package, with extras that exist."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for word in (word for word in arguments[1:] if not word.startswith("-")):
        wanted = Requirement(re.sub(r"^\.(?=\[|$)", "openrlhf-lamer", word))
        if wanted.name == "openrlhf-lamer" and not wanted.extras <= set(extras):
            raise UnknownCommandError(f"{word}: extras are {', '.join(extras)}")


def _ray(arguments: Sequence[str]) -> None:
    """A job is the command that it runs."""
    if arguments[:2] == ["job", "submit"]:
        _python(arguments[arguments.index("--") + 2 :])


def _pytest(arguments: Sequence[str]) -> None:
    if missing := [word for word in arguments if word.startswith("tests/") and not (ROOT / word).exists()]:
        raise UnknownCommandError(f"there is no {missing[0]}")


CHECKS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "make": _make,
    "openrlhf-lamer": _ours,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "ray": _ray,
}
