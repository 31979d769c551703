"""Sokoban: push every box onto a target."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from openrlhf_lamer.envs.base import SUCCESS_REWARD, EpisodeOverError, Observation, Step, TaskError, TextEnv
from openrlhf_lamer.envs.mistakes import Move, Played
from openrlhf_lamer.envs.seeding import below, choose
from openrlhf_lamer.envs.sokoban.levels import LONGEST, Level, generate
from openrlhf_lamer.envs.sokoban.room import MOVES, parse, shift
from openrlhf_lamer.envs.sokoban.solver import Solver
from openrlhf_lamer.records import Episode, Task
from openrlhf_lamer.vocabulary import RewardScheme

STAY = "none"

MOVE_REWARD = -0.1
BOX_REWARD = 1.0

_DIRECTION = re.compile(r"\b(up|down|left|right)(?:wards?)?\b", re.IGNORECASE)


class Sokoban(TextEnv):
    """Push all boxes of a small room onto the targets.

    Description:
        A room of `size` x `size` squares, walls included, with `boxes` boxes and `boxes` targets.
        The player pushes a box by walking into it, where the square behind it is free; boxes are
        never pulled, and two are never pushed at once. A generated level has a shortest solution of 5 to 21
        moves, and no box begins on a target.

    Actions:
        One to `moves_per_turn` of `up`, `down`, `left`, `right` and `none`, separated by commas:
        `up, left`. A move into a wall, or into a box that cannot move, does nothing, as does
        `none`, but counts as a move. Anything else, or too many moves, is refused as a whole.

    Observation:
        One line per row, `0: # # #`: `#` wall, `_` floor, `O` target, `X` box, `√` box on a target, `P` player, `S`
        player on a target. Rows are numbered from 0.

    Rewards:
        sparse: 10 for the move that wins, else 0.
        shaped: the sum over the moves of a turn: -0.1 a move, 1 for a box pushed onto a target,
        -1 for one pushed off, 10 for the move that wins.

    Termination:
        All boxes are on targets (won), or no solution is left (lost). `max_moves` moves without
        either truncate the episode. The remaining moves of a turn are then not played.

    Options:
        size: Rows and columns, walls included, 6 to 10.
        boxes: Boxes, 2 to 5.
        max_moves: Moves in an episode, 21 to 1000.
        moves_per_turn: Moves in one action, 1 to 100.
        reward: "sparse" or "shaped".

    A task's spec is `{"board": "0: # # ...\\n1: # P ..."}`, in the observation's form. It sets
    size and boxes for this task only; the options hold for tasks with a seed. A board that has no
    solution, or none within `max_moves`, is refused.

    Rooms of 6x6 are always decided exactly. In larger ones, where a long search finds no answer, a position
    counts as solvable, and a board as solvable within `max_moves`.
    """

    name = "sokoban"
    legend = "# wall, _ floor, O target, X box, √ box on target, P you, S you on target"
    difficulties = (
        *({"size": 6, "boxes": boxes} for boxes in (2, 3, 4, 5)),
        {"size": 8, "boxes": 3},
        {"size": 10, "boxes": 5},
    )

    @classmethod
    def played(cls, episode: Episode) -> Played:
        """Single moves, replayed from the first board; the mistake is the move after which no solution is left."""
        env = cls(max_moves=1000, moves_per_turn=1)
        try:
            env.reset(Task("sokoban", spec={"board": episode.turns[0].observation}))
        except TaskError:
            return Played((), None)
        moves: list[Move] = []
        for turn in episode.turns:
            words = [word.strip().lower() for word in (turn.did or "").split(",")] if turn.valid else []
            for made, word in enumerate(words, 1):
                state, step = env.anchor(), env.step(word)
                if not step.valid:  # of an action too long to be kept, the rest is not known
                    return Played(tuple(moves), None)
                moves.append(Move(state, word, ", ".join(words[:made])))
                if step.terminated:
                    return Played(tuple(moves), None if step.won else moves[-1])
        return Played(tuple(moves), None)

    @classmethod
    def mentions(cls, remark: str, action: str) -> bool:
        """Whether the remark has the directions of the action in order, possibly with other words between them."""
        wanted, said = _directions(action), _directions(remark)
        return bool(wanted) and any(said[i : i + len(wanted)] == wanted for i in range(len(said)))

    def __init__(
        self,
        size: int = 6,
        boxes: int = 2,
        max_moves: int = 30,
        moves_per_turn: int = 3,
        reward: RewardScheme = "sparse",
    ) -> None:
        super().__init__(reward)
        self.size = self._whole("size", size, 6, 10)
        self.boxes = self._whole("boxes", boxes, 2, 5)
        self.max_moves = self._whole("max_moves", max_moves, LONGEST, 1000)
        self.moves_per_turn = self._whole("moves_per_turn", moves_per_turn, 1, 100)
        self._options = (self.size, self.boxes)
        # Making a level of five boxes, or a search for a solution that is not there, takes tens of milliseconds.
        self.slow = boxes == 5 or size * boxes > 35
        self._task: Task | None = None
        self._plan: dict[tuple[int, int], tuple[str, ...]] = {}
        """Solutions of the positions that the oracle has met: by position, the moves still to make."""
        self._over = True

    def reset(self, task: Task) -> Observation:
        """Begin an episode: a level drawn from the task's seed, or the one its spec describes."""
        if task != self._task:
            self.size, self.boxes = self._options
        self._check_task(task)
        self._over = True
        if task != self._task:  # the later episodes of a trial need no new level
            self._task = None
            level = self._read(task.spec) if task.spec is not None else generate(self.size, self.boxes, _seed(task))
            self._level, self._solver, self._plan = level, Solver(level.room), {}
            self._remember(level.boxes, level.player, level.solution)
            if task.spec is not None:  # a generated level came with a solution
                self._check_solvable(level)
            self._task = task
        self._boxes, self._player = self._level.boxes, self._level.player
        self._moves = 0
        self._over = False
        return Observation(self._level.room.text(self._boxes, self._player))

    def step(self, action: str) -> Step:
        """Play the moves of a turn, as in `up, left`."""
        if self._over:
            raise EpisodeOverError("sokoban: no episode is running; call reset first")
        moves = [word.strip().lower() for word in action.split(",")]
        valid = len(moves) <= self.moves_per_turn and all(move == STAY or move in MOVES for move in moves)
        room = self._level.room
        before = self._moves
        placed = (self._boxes & room.targets).bit_count()
        won = lost = False
        for move in moves if valid else ():
            pushed = move != STAY and self._move(room.steps[MOVES.index(move)])
            self._moves += 1
            won = self._boxes == room.targets
            # Only pushes can make a level unsolvable.
            lost = pushed and not won and self._solver.is_lost(self._boxes, self._player)
            self._over = won or lost or self._moves == self.max_moves
            if self._over:
                break
        on_target = (self._boxes & room.targets).bit_count()
        if self.reward == "shaped":
            # One rounding of the exact sum, so that the reward does not depend on the order of moves.
            paid = MOVE_REWARD * (self._moves - before) + BOX_REWARD * (on_target - placed) + SUCCESS_REWARD * won
            reward = round(paid, 6)
        else:
            reward = SUCCESS_REWARD * won
        return Step(
            observation=Observation(room.text(self._boxes, self._player)),
            reward=reward,
            terminated=won or lost,
            truncated=self._over and not (won or lost),
            won=won,
            valid=valid,
            info={"moves": self._moves - before, "on_target": on_target},
            action=", ".join(moves[: self._moves - before]) if valid else None,
        )

    def anchor(self) -> str:
        """The board, as numbers. The moves made so far are not part of it."""
        room = self._level.room
        return f"{room.width}:{room.floor:x}:{room.targets:x}:{self._boxes:x}:{self._player:x}"

    def reward_bounds(self, max_turns: int) -> tuple[float, float]:
        """At worst all moves are made and all boxes leave targets; at best few moves put all boxes on them."""
        if self.reward == "sparse":
            return 0.0, SUCCESS_REWARD
        moves = min(self.max_moves, self.moves_per_turn * max_turns)
        boxes = BOX_REWARD * self.boxes
        return MOVE_REWARD * moves - boxes, boxes + SUCCESS_REWARD + MOVE_REWARD

    def long_states(self) -> tuple[Observation, ...]:
        """A board; all are equally long."""
        return (Observation("\n".join(f"{row}: {' '.join('#' * self.size)}" for row in range(self.size))),)

    def oracle(self) -> str | None:
        """The next moves of a solution from here, `moves_per_turn` at most; None where none is known.

        It follows the solution that came with the level; off that, a shortest one.
        """
        if self._over:
            return None
        position = (self._boxes, self._player)
        if position not in self._plan:
            solution = self._solver.solve(*position)
            if solution is None:
                return None
            self._remember(*position, solution)
        return ", ".join(self._plan[position][: self.moves_per_turn])

    def why_refused(self, action: str) -> str:
        """The reason: too many moves, or a word that is not a move, with the moves that there are."""
        words = [word.strip() for word in action.split(",")]
        wrong = next((word for word in words if word.lower() not in (*MOVES, STAY)), None)
        if wrong is None:
            return f"{len(words)} moves are too many: give 1 to {self.moves_per_turn}"
        return f"{wrong!r} is no move: there are {', '.join((*MOVES, STAY))}, separated by commas"

    def random_action(self, rng: Any) -> str:
        """One to `moves_per_turn` steps in random directions."""
        return ", ".join(choose(rng, MOVES) for _ in range(1 + below(rng, self.moves_per_turn)))

    def _read(self, spec: Mapping[str, Any]) -> Level:
        if set(spec) != {"board"}:
            raise TaskError(f"sokoban: a spec has the key board and no other, not {sorted(map(str, spec))}")
        try:
            room, boxes, player = parse(str(spec["board"]))
        except ValueError as error:
            raise TaskError(f"sokoban: spec['board'] is no level: {error}") from error
        if room.width != room.height:
            raise TaskError(
                f"sokoban: spec['board'] has {room.height} rows and {room.width} columns; a board is square"
            )
        self.size, self.boxes = room.width, boxes.bit_count()
        if boxes == room.targets:
            raise TaskError("sokoban: spec['board'] is solved already")
        return Level(room, boxes, player)

    def _check_solvable(self, level: Level) -> None:
        if self._solver.is_lost(level.boxes, level.player):
            raise TaskError("sokoban: spec['board'] has no solution")
        needed = self._solver.least_moves(level.boxes, level.player)
        if needed > self.max_moves:
            raise TaskError(
                f"sokoban: spec['board'] needs {needed} moves, max_moves is {self.max_moves}; "
                "raise max_moves or choose another board"
            )

    def _move(self, by: int) -> bool:
        """Walk by one square, if the way is free; returns whether a box was pushed."""
        self._boxes, self._player, pushed = _walked(self._level, self._boxes, self._player, by)
        return pushed

    def _remember(self, boxes: int, player: int, solution: tuple[str, ...] | list[str]) -> None:
        """Note the moves still to make at each position along a solution."""
        steps = self._level.room.steps
        for made, move in enumerate(solution):
            self._plan[boxes, player] = tuple(solution[made:])
            boxes, player, _ = _walked(self._level, boxes, player, steps[MOVES.index(move)])


def _directions(text: str) -> list[str]:
    return [word.lower() for word in _DIRECTION.findall(text)]


def _walked(level: Level, boxes: int, player: int, by: int) -> tuple[int, int, bool]:
    """Boxes and player after a move, and whether it pushed a box."""
    to = shift(player, by)
    floor = level.room.floor
    if not to & floor:
        return boxes, player, False
    if not to & boxes:
        return boxes, to, False
    beyond = shift(to, by)
    if not beyond & floor & ~boxes:
        return boxes, player, False
    return boxes ^ to ^ beyond, to, True


def _seed(task: Task) -> int:
    assert task.seed is not None
    return task.seed
