"""Trainings and evaluations of the paper's experiments, and the commands that make them.

One folder holds everything: `data/` (task sets), `train/NAME/seed-N/` (a training with its model) and
`eval/NAME/seed-N/` (a run of `openrlhf-lamer eval`). Experiments share trainings and evaluations.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from openrlhf_lamer import panels, recipes
from openrlhf_lamer.envs.alfworld.catalogue import COUNTS, TASK_TYPES
from openrlhf_lamer.evaluation.methods import METHODS
from openrlhf_lamer.panels import Ceilings
from openrlhf_lamer.tasks import PANEL_SIZE

BASE = "base"
"""The untrained model."""

OFFICIAL = "valid_unseen"
"""Split of ALFWorld's official games for evaluation."""

TITLES = {"sokoban": "Sokoban", "minesweeper": "MineSweeper", "webshop": "WebShop", "alfworld": "ALFWorld"}

SHOP = "webshop-eval"
"""Test goals of the training's catalogue: the one that WEBSHOP_DATA names, or else the synthetic one."""

PANELS = {"sokoban": "sokoban/2-boxes", "minesweeper": "minesweeper/3-mines", "webshop": SHOP}
"""Evaluation sets, unless an experiment names others."""

WRITTEN = (SHOP, *TASK_TYPES)
"""Evaluation sets that are not frozen panels: their tasks are written first."""

STEPS = {"sokoban": 300, "minesweeper": 300, "webshop": 150, "alfworld": 150}
"""Steps of the paper's training."""

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@dataclass(frozen=True)
class Setup:
    """Place and machines of the experiments.

    Attributes:
        model: Folder of the model that training starts from.
        runs: Folder of all results.
        seeds: Seeds; each gets a training, or a run of the untrained model.
        nodes: Machines of a training.
        gpus: GPUs of each machine.
        official: Use ALFWorld's official games (`$ALFWORLD_DATA`), not generated ones.
    """

    model: str
    runs: Path
    seeds: tuple[int, ...] = (0,)
    nodes: int = 1
    gpus: int = 8
    official: bool = False


@dataclass(frozen=True)
class Training:
    """A training by a recipe, `recipes/ENV/MODEL.toml`."""

    env: str
    model: str

    @property
    def recipe(self) -> recipes.Recipe:
        """Recipe with what it takes over from its bases."""
        return recipes.read(RECIPES / self.env / f"{self.model}.toml")

    def folder(self, setup: Setup, seed: int) -> Path:
        """Where it is."""
        return setup.runs / "train" / self.env / self.model / f"seed-{seed}"

    def checkpoints(self, setup: Setup, seed: int) -> Path:
        """Folder from which a killed training resumes; not needed once the model is there."""
        return self.folder(setup, seed) / "checkpoints"

    def data(self, setup: Setup) -> list[str]:
        """Commands that write its training tasks."""
        num, out = STEPS[self.env] * self.recipe.settings["rollout.batch_size"].value, self._tasks(setup)
        if self.env != "alfworld":
            return [_prepare(self.env, "train", num, out)]
        options = {"task_types": "id"}
        if not setup.official:
            return [_prepare(self.env, "train", num, out, options)]
        # The games are listed type by type: draw from all of them, the same each time.
        every = out.with_name("official.jsonl")
        draw = ["shuf", "-n", str(num), f"--random-source={every}", "-o", str(out), str(every)]
        count = sum(COUNTS["train"][name] for name in TASK_TYPES[:4])
        return [_prepare(self.env, "official_train", count, every, options), shlex.join(draw)]

    def command(self, setup: Setup, seed: int) -> str:
        """Command of the training; it goes on from the last checkpoint, and does nothing if the model is whole."""
        folder, recipe = self.folder(setup, seed), self.recipe
        words = [
            *("openrlhf-lamer", "train", str(_near(recipe.path)), "--run", str(folder), "--train.seed", str(seed)),
            *("--actor.model_name_or_path", setup.model, "--data.prompt_dataset", str(self._tasks(setup))),
            *("--eval.dataset", "false", *_placement(recipe, setup)),  # it is evaluated when it is done
        ]
        # The host writes the tokenizer last: a model that was cut off has none.
        whole = folder / "model" / "tokenizer_config.json"
        return f"test -e {shlex.quote(str(whole))} || {shlex.join(words)}"

    def _tasks(self, setup: Setup) -> Path:
        return setup.runs / "data" / self.env / "train.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """A model on a panel, by a method of `openrlhf-lamer eval`.

    Attributes:
        env: The environment.
        model: `BASE`, or the name of the recipe that trained it.
        panel: A frozen panel, or one of `WRITTEN`: `SHOP`, or an ALFWorld task type with all its games.
        method: Value of `eval --method`.
        memory: Memory of earlier attempts, if it is not the method's default.
    """

    env: str
    model: str
    panel: str
    method: str
    memory: str | None = None

    @property
    def name(self) -> str:
        """Unique name of its folder."""
        how = "" if self.method == "lamer" else f"-{self.method.replace('+', '-')}"
        return f"{self.panel.replace('/', '-')}/{self.model}{how}"

    @property
    def training(self) -> Training | None:
        """Training of its model; None for the untrained one."""
        return None if self.model == BASE else Training(self.env, self.model)

    @property
    def ceilings(self) -> Ceilings | None:
        """Shares of its panel that can be won, if known."""
        return None if self.panel in WRITTEN else panels.load(self.panel).ceilings

    @property
    def measure(self) -> str:
        """`success` for consecutive attempts, or `pass` for independent ones."""
        return METHODS[self.method].measure

    def folder(self, setup: Setup, seed: int) -> Path:
        """Where it is."""
        return setup.runs / "eval" / self.name / f"seed-{seed}"

    def data(self, setup: Setup) -> list[str]:
        """Commands that write the tasks, if they are not a bundled panel."""
        if self.panel not in WRITTEN:
            return []
        if self.panel == SHOP:
            return [_prepare(self.env, "eval", PANEL_SIZE, self._dataset(setup))]
        split, num = (OFFICIAL, COUNTS[OFFICIAL][self.panel]) if setup.official else ("eval", PANEL_SIZE)
        return [_prepare(self.env, split, num, self._dataset(setup), {"task_types": self.panel})]

    def command(self, setup: Setup, seed: int) -> str:
        """Command of the evaluation; it resumes one that was killed, and returns at once from a finished one."""
        training = self.training
        tasks = self._dataset(setup) if self.panel in WRITTEN else self.panel
        words = [
            *("openrlhf-lamer", "eval", "--tasks", str(tasks), "--method", self.method),
            *("--model", setup.model if training is None else str(training.folder(setup, seed) / "model")),
            *([] if self.memory is None else ["--memory", self.memory]),
            *("--seed", str(seed), "--out", str(self.folder(setup, seed))),
        ]
        return shlex.join(words)

    def _dataset(self, setup: Setup) -> Path:
        return setup.runs / "data" / self.env / f"{self.panel}.jsonl"


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        row: The paper's name of the method.
        column: The paper's name of the task.
        evaluation: The evaluation shown there.
        part: Heading of its part of the picture.
        at: Its place on the horizontal axis, if that is not the number of attempts.
        place: Label of that place, if it is not a number.
    """

    row: str
    column: str
    evaluation: Evaluation
    part: str
    at: float | None = None
    place: str = ""


@dataclass(frozen=True)
class Experiment:
    """A table or figure of the paper.

    Attributes:
        name: Its name in the commands and in `paper.toml`.
        title: Title of the table.
        cells: Its places, row by row.
        attempts: Numbers of attempts that get a column each.
        across: Name of the picture's horizontal axis.
        ceilings: Whether to show the shares of each panel that can be won.
    """

    name: str
    title: str
    cells: tuple[Cell, ...]
    attempts: tuple[int, ...] = (3,)
    across: str = "attempts"
    ceilings: bool = False

    @property
    def evaluations(self) -> list[Evaluation]:
        """Its evaluations, each once."""
        return list(dict.fromkeys(cell.evaluation for cell in self.cells))


def plan(evaluations: Sequence[Evaluation], setup: Setup, trainings: Sequence[Training] = ()) -> Iterator[str]:
    """Lines of a shell script that makes evaluations and trainings, including those that evaluations need."""
    needed = (each.training for each in evaluations)
    trainings = list(dict.fromkeys([*trainings, *(each for each in needed if each is not None)]))
    yield from dict.fromkeys(line for each in (*trainings, *evaluations) for line in each.data(setup))
    for seed in setup.seeds:
        yield f"# seed {seed}"
        for training in trainings:
            yield training.command(setup, seed)
            yield shlex.join(["rm", "-rf", str(training.checkpoints(setup, seed))])
        yield from (evaluation.command(setup, seed) for evaluation in evaluations)


def _placement(recipe: recipes.Recipe, setup: Setup) -> list[str]:
    """Flags for a training's machines, where they differ from the recipe's."""
    sizes = {"num_nodes": setup.nodes, "num_gpus_per_node": setup.gpus, "num_engines": setup.nodes * setup.gpus}
    wanted = {flag: sizes[last] for flag in recipe.settings if (last := flag.rpartition(".")[2]) in sizes}
    changed = {flag: size for flag, size in wanted.items() if recipe.settings[flag].value != size}
    return [word for flag, size in changed.items() for word in (f"--{flag}", str(size))]


def _near(path: Path) -> Path:
    """A path relative to the current folder, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _prepare(env: str, split: str, num: int, out: Path, options: dict[str, str] | None = None) -> str:
    words = ["openrlhf-lamer", "prepare", "tasks", "--env", env, "--split", split, "--num", str(num)]
    words += ["--options", json.dumps(options)] if options else []
    line = shlex.join([*words, "--out", str(out)])
    # A written file stays: if WEBSHOP_DATA changes meanwhile, training and evaluation refuse its tasks.
    return f"test -e {shlex.quote(str(out))} || {line}" if env == "webshop" else line


def _everywhere(row: str, model: str, method: str, memory: str | None = None, at: float | None = None) -> list[Cell]:
    """Cells of a row: the three environments at their default difficulty."""
    return [
        Cell(row, TITLES[env], Evaluation(env, model, panel, method, memory), TITLES[env], at)
        for env, panel in PANELS.items()
    ]


def _main_table() -> Experiment:
    prompting = {"Zero-shot": "zero-shot", "ReAct": "react", "Reflexion": "reflexion"}
    cells = [cell for row, method in prompting.items() for cell in _everywhere(row, BASE, method)]
    for row in ("PPO", "RLOO", "GRPO", "GiGPO"):
        cells += _everywhere(row, row.lower(), "rl")
    cells += _everywhere("LaMer", "lamer", "lamer")
    return Experiment("main-table", "Success within 1 to 3 attempts", tuple(cells), (1, 2, 3))


def _harder_tasks() -> Experiment:
    cells = []
    for row, model, method in (("GiGPO", "gigpo", "rl"), ("LaMer", "lamer", "lamer")):
        for env, things, numbers in (("sokoban", "boxes", range(2, 6)), ("minesweeper", "mines", range(3, 7))):
            for number in numbers:
                evaluation = Evaluation(env, model, f"{env}/{number}-{things}", method)
                cells.append(Cell(row, f"{TITLES[env]}, {number} {things}", evaluation, TITLES[env], number))
    title = "Harder tasks, by models trained on the easiest: success within 3 attempts"
    return Experiment("harder-tasks", title, tuple(cells), across="boxes or mines", ceilings=True)


def _alfworld() -> Experiment:
    columns = ("Pick", "Look", "Clean", "Heat", "Cool (o.o.d.)", "Pick2 (o.o.d.)")
    cells = []
    for row, model, method in (("Prompting", BASE, "react"), ("RL", "gigpo", "rl"), ("LaMer", "lamer", "lamer")):
        for at, (column, panel) in enumerate(zip(columns, TASK_TYPES, strict=True)):
            evaluation = Evaluation("alfworld", model, panel, method)
            cells.append(Cell(row, column, evaluation, "ALFWorld", at, column.replace(" ", "\n")))
    title = "ALFWorld, trained on the first four task types: success within 3 attempts"
    return Experiment("alfworld", title, tuple(cells), across="task type")


def _gamma() -> Experiment:
    models = {"0.0": "lamer-gamma-0.0", "0.3": "lamer-gamma-0.3", "0.6": "lamer", "0.9": "lamer-gamma-0.9"}
    cells = [
        cell
        for gamma, model in models.items()
        for cell in _everywhere(f"γ_traj {gamma}", model, "lamer", at=float(gamma))
    ]
    return Experiment("gamma", "Discount between episodes", tuple(cells), (1, 2, 3), across="γ_traj")


def _memory() -> Experiment:
    rows = (
        ("Trajectory only", "lamer-history", "history"),
        ("Reflection only", "lamer-reflection", "reflection"),
        ("Both", "lamer", None),
    )
    cells = [cell for row, model, memory in rows for cell in _everywhere(row, model, "lamer", memory)]
    return Experiment("memory", "Memory between episodes, trained and evaluated alike", tuple(cells))


def _rl_memory() -> Experiment:
    rows = (
        ("GiGPO without memory", "gigpo", "rl"),
        ("GiGPO with memory", "gigpo", "rl+memory"),
        ("LaMer", "lamer", "lamer"),
    )
    cells = [cell for row, model, method in rows for cell in _everywhere(row, model, method)]
    return Experiment("rl-memory", "RL baselines that are given a memory", tuple(cells))


def _by_turn() -> Experiment:
    rows = {"RLOO": "rloo", "RLOO by turn": "lamer_rloo", "GRPO": "grpo", "GRPO by turn": "lamer_grpo"}
    cells = [cell for row, model in rows.items() for cell in _everywhere(row, model, "rl")]
    return Experiment("by-turn", "Single attempts credited as a whole, or turn by turn", tuple(cells), (1, 2, 3))


EXPERIMENTS = {
    each.name: each
    for each in (_main_table(), _harder_tasks(), _alfworld(), _gamma(), _memory(), _rl_memory(), _by_turn())
}
"""Experiments whose results are evaluations; `budget.py` has the one on training itself."""
