"""Sokoban against golden transcripts, its levels, and its solver against a plain search."""

from __future__ import annotations

import json
import random
import runpy
from collections import deque
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openrlhf_lamer.envs import Task, TaskError, make
from openrlhf_lamer.envs.sokoban.levels import LONGEST, SHORTEST, generate
from openrlhf_lamer.envs.sokoban.room import MOVES, Room, bits, parse, shift, union
from openrlhf_lamer.envs.sokoban.solver import Solver

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data" / "sokoban.json").read_text("utf-8"))

TWO_BOXES = "9881bb54ab0fd011ee351efe1344c4211243dd5043e336176a880cdd5eccdd9b"
"""Hash of the boards of the first 200 levels with two boxes."""

DIFFICULTIES = [(6, 2), (6, 3), (6, 4), (6, 5), (8, 2), (8, 3), (10, 2), (10, 5)]


def moved(room: Room, boxes: int, player: int, by: int) -> tuple[int, int]:
    """The rules once more, as plainly as can be."""
    to, beyond = shift(player, by), shift(player, 2 * by)
    if not to & room.floor or (to & boxes and (beyond & boxes or not beyond & room.floor)):
        return boxes, player
    return (boxes ^ to ^ beyond if to & boxes else boxes), to


def plain_search(room: Room, boxes: int, player: int) -> int | None:
    """Length of a shortest solution by breadth-first search over single moves."""
    start = (boxes, player)
    seen, queue = {start: 0}, deque([start])
    while queue:
        position = queue.popleft()
        if position[0] == room.targets:
            return seen[position]
        for by in room.steps:
            reached = moved(room, *position, by)
            if reached not in seen:
                seen[reached] = seen[position] + 1
                queue.append(reached)
    return None


def random_position(rng: random.Random) -> tuple[Room, int, int]:
    """Walls, targets, two or three boxes and the player anywhere in a 6x6 room; most have no solution."""
    inner = [1 << row * 6 + col for row in range(1, 5) for col in range(1, 5)]
    floor = union(inner) & ~union(rng.sample(inner, rng.randrange(5)))
    squares, count = list(bits(floor)), rng.choice((2, 3))
    boxes = union(rng.sample(squares, count))
    return Room(6, 6, floor, union(rng.sample(squares, count))), boxes, rng.choice(list(bits(floor & ~boxes)))


@pytest.mark.parametrize("entry", GOLDEN, ids=range(len(GOLDEN)))
class TestGolden:
    def test_transcript(self, entry: dict[str, Any]) -> None:
        env = make("sokoban", boxes=entry["boxes"], moves_per_turn=1, reward="shaped")
        assert env.reset(Task("sokoban", spec={"board": entry["initial"]})).text == entry["initial"]
        for number, golden in enumerate(entry["steps"], 1):
            step = env.step(golden["action"])
            assert step.observation.text == golden["observation"]
            assert (step.reward, step.terminated, step.won) == (golden["reward"], golden["done"], golden["won"])
            assert step.truncated == (number == 30 and not golden["done"])
            assert step.valid

    def test_whole_turns_pay_the_sum_of_their_moves(self, entry: dict[str, Any]) -> None:
        env = make("sokoban", boxes=entry["boxes"], reward="shaped")
        env.reset(Task("sokoban", spec={"board": entry["initial"]}))
        for at in range(0, len(entry["steps"]), 3):
            turn = entry["steps"][at : at + 3]
            step = env.step(",".join(move["action"] for move in turn))
            assert step.observation.text == turn[-1]["observation"]
            assert step.reward == pytest.approx(sum(move["reward"] for move in turn))
            assert (step.terminated, step.won) == (turn[-1]["done"], turn[-1]["won"])

    def test_length_of_a_shortest_solution(self, entry: dict[str, Any]) -> None:
        room, boxes, player = parse(entry["initial"])
        solution = Solver(room).solve(boxes, player)
        assert solution is not None
        assert len(solution) == entry["solution_length"]


class TestLevels:
    @pytest.mark.parametrize(("size", "count"), DIFFICULTIES)
    def test_a_hundred_seeds_are_solvable_levels_that_hardly_repeat(self, size: int, count: int) -> None:
        boards: set[str] = set()
        for seed in range(100):
            level = generate(size, count, seed)
            room, boxes, player = level.room, level.boxes, level.player
            boards.add(room.text(boxes, player))
            assert boxes.bit_count() == room.targets.bit_count() == count
            assert not boxes & room.targets
            assert room.reachable(0, player) == room.floor, "one connected room"
            assert SHORTEST <= len(level.solution) <= LONGEST
            for move in level.solution:
                assert boxes != room.targets
                boxes, player = moved(room, boxes, player, room.steps[MOVES.index(move)])
            assert boxes == room.targets
        # A 6x6 room that five boxes can leave is so rare that some levels come up under two seeds.
        assert len(boards) >= (95 if (size, count) == (6, 5) else 100)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_shortest_solutions_are_within_bounds_and_vary(self, count: int) -> None:
        lengths = []
        for seed in range(25):
            level = generate(6, count, seed)
            solution = Solver(level.room).solve(level.boxes, level.player)
            assert solution is not None
            lengths.append(len(solution))
        assert min(lengths) >= SHORTEST
        assert max(lengths) <= LONGEST
        assert len(set(lengths)) >= 6

    def test_more_boxes_are_harder(self) -> None:
        """Longer shortest solutions and fewer wins for a player that looks one push ahead; two boxes stay easy."""
        benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "sokoban_levels.py"))
        found = [benchmark["difficulty"](6, boxes, 80) for boxes in (2, 3, 4, 5)]
        medians = [each.moves[0] for each in found]
        greedy = [each.greedy for each in found]
        assert medians == sorted(set(medians)), medians
        assert medians[0] <= 9
        assert min(medians[2:]) >= 13
        assert greedy == sorted(set(greedy), reverse=True), greedy
        assert greedy[0] >= 0.7
        assert max(greedy[2:]) < 0.5
        assert all(each.on_target == 0 and each.random < 0.04 for each in found)
        assert found[-1].random < found[0].random / 4

    @pytest.mark.parametrize("count", [2, 3, 4, 5])
    def test_the_benchmark_counts_moves_as_a_plain_search_does(self, count: int) -> None:
        benchmark = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks" / "sokoban_levels.py"))
        level = generate(6, count, 3)
        moves = plain_search(level.room, level.boxes, level.player)
        assert moves == benchmark["shortest"](level) == Solver(level.room).least_moves(level.boxes, level.player)

    def test_levels_of_two_boxes_stay_as_they_are(self) -> None:
        boards = (
            f"{level.room.text(level.boxes, level.player)}\n" for level in (generate(6, 2, i) for i in range(200))
        )
        assert sha256("".join(boards).encode()).hexdigest() == TWO_BOXES

    def test_text_and_parse_are_inverse(self) -> None:
        for size, count in DIFFICULTIES:
            level = generate(size, count, 7)
            text = level.room.text(level.boxes, level.player)
            room, boxes, player = parse(text)
            assert (boxes, player, room.floor, room.targets) == (
                level.boxes,
                level.player,
                level.room.floor,
                level.room.targets,
            )
            assert room.text(boxes, player) == text


class TestSolver:
    @settings(deadline=None, max_examples=60)
    @given(seed=st.integers(0, 2**32))
    def test_agrees_with_a_plain_search(self, seed: int) -> None:
        room, boxes, player = random_position(random.Random(seed))
        length = plain_search(room, boxes, player)
        solver = Solver(room)
        assert solver.is_lost(boxes, player) == (length is None)
        solution = solver.solve(boxes, player)
        assert (None if solution is None else len(solution)) == length
        if length:
            assert solver.solve(boxes, player, limit=length - 1) is None
            assert solution == solver.solve(boxes, player, limit=length)
            for move in solution or ():
                boxes, player = moved(room, boxes, player, room.steps[MOVES.index(move)])
            assert boxes == room.targets

    @pytest.mark.parametrize(("size", "count"), [(6, 2), (6, 3), (6, 5)])
    def test_a_verdict_does_not_depend_on_what_was_asked_before(self, size: int, count: int) -> None:
        rng = random.Random(0)
        for seed in range(10):
            level = generate(size, count, seed)
            used = Solver(level.room)
            boxes, player = level.boxes, level.player
            for _ in range(60):
                boxes, player = moved(level.room, boxes, player, rng.choice(level.room.steps))
                assert used.is_lost(boxes, player) == Solver(level.room).is_lost(boxes, player)

    def test_without_a_verdict_within_the_budget_a_position_is_not_lost(self) -> None:
        level = generate(10, 5, 1)
        assert not Solver(level.room).is_lost(level.boxes, level.player, budget=1)


class TestPlay:
    @pytest.mark.parametrize(("size", "count"), DIFFICULTIES)
    def test_the_oracle_always_wins(self, size: int, count: int) -> None:
        env = make("sokoban", size=size, boxes=count)
        for seed in range(50):
            env.reset(Task("sokoban", seed=seed))
            step = None
            while (action := env.oracle()) is not None:
                step = env.step(action)
            assert step is not None
            assert step.won
            assert step.reward == 10.0

    def test_the_oracle_finds_back_from_elsewhere(self) -> None:
        env = make("sokoban", max_moves=1000)
        rng = random.Random(0)
        for seed in range(20):
            env.reset(Task("sokoban", seed=seed))
            last = env.step(env.random_action(rng))
            while (action := env.oracle()) is not None:
                last = env.step(action)
            assert last.terminated, "won, or lost by the random moves"

    @pytest.mark.parametrize("action", ["", "up,", "jump", "up, up, up, up", "up; left", "up left", "upp", "(1, 2)"])
    def test_a_wrong_word_or_too_many_moves_change_nothing(self, action: str) -> None:
        env = make("sokoban", reward="shaped")
        before = env.reset(Task("sokoban", seed=1)), env.anchor()
        for _ in range(40):  # a refused action uses up no moves
            step = env.step(action)
            assert (step.valid, step.reward, step.terminated, step.truncated) == (False, 0.0, False, False)
            assert (step.observation, env.anchor()) == before
        assert not env.penalises_invalid

    def test_words_are_read_in_any_case_and_spacing(self) -> None:
        one, other = make("sokoban"), make("sokoban")
        task = Task("sokoban", seed=1)
        one.reset(task)
        other.reset(task)
        assert one.step("  Up ,LEFT,none ") == other.step("up,left,none")

    def test_none_costs_a_move_and_the_cap_truncates_within_a_turn(self) -> None:
        env = make("sokoban", max_moves=31, reward="shaped")
        env.reset(Task("sokoban", seed=1))
        for _ in range(10):
            step = env.step("none, none, none")
            assert (step.reward, step.truncated) == (-0.3, False)
        step = env.step("none, none, none")
        assert (step.reward, step.terminated, step.truncated, step.won) == (-0.1, False, True, False)
        assert step.info["moves"] == 1

    def test_moves_after_the_end_of_an_episode_are_not_played(self) -> None:
        board = "\n".join(
            ("0: # # # # # #", "1: # P X O _ #", "2: # _ _ _ _ #", "3: # _ √ _ _ #", "4: # _ _ _ _ #", "5: # # # # # #")
        )
        env = make("sokoban", reward="shaped")
        env.reset(Task("sokoban", spec={"board": board}))
        step = env.step("right, right, right")
        assert (step.won, step.terminated, step.reward, step.info) == (True, True, 10.9, {"moves": 1, "on_target": 2})

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("P", "_", "0 players"),
            ("√", "X", "2 boxes and 1 targets"),
            ("P", "?", r"unknown square '\?' in row 1, column 1"),
            ("0: # # #", "0: # _ #", "open in row 0, column 1"),
            ("1: # P", "2: # P", "line 1 begins with '2'"),
            ("5: # #", "5: #", "row 5 has 5 squares"),
            ("X O _", "_ √ _", "solved already"),
            ("X O _", "_ O X", "no solution"),
        ],
    )
    def test_wrong_boards_are_refused(self, old: str, new: str, message: str) -> None:
        board = "\n".join(
            ("0: # # # # # #", "1: # P X O _ #", "2: # _ _ _ _ #", "3: # _ √ _ _ #", "4: # _ _ _ _ #", "5: # # # # # #")
        )
        assert old in board
        with pytest.raises(TaskError, match=message):
            make("sokoban").reset(Task("sokoban", spec={"board": board.replace(old, new, 1)}))

    def test_boards_that_need_more_than_max_moves_are_refused(self) -> None:
        rows = ("# # # # # # # #", *["# _ _ _ _ _ _ #"] * 6, "# # # # # # # #")
        cells = [list(row) for row in rows]
        for row, column, sign in ((1, 1, "P"), (2, 2, "X"), (3, 2, "X"), (6, 6, "O"), (6, 5, "O")):
            cells[row][2 * column] = sign
        board = "\n".join(f"{number}: {''.join(row)}" for number, row in enumerate(cells))
        room, boxes, player = parse(board)
        needed = plain_search(room, boxes, player)
        assert needed is not None
        assert needed > LONGEST
        task = Task("sokoban", spec={"board": board})
        with pytest.raises(TaskError, match=rf"needs {needed} moves, max_moves is {needed - 1}; raise max_moves"):
            make("sokoban", max_moves=needed - 1).reset(task)
        env = make("sokoban", max_moves=needed)
        env.reset(task)
        won = False
        while (action := env.oracle()) is not None:
            won = env.step(action).won
        assert won

    def test_what_a_search_cannot_tell_is_a_bound(self, monkeypatch: pytest.MonkeyPatch) -> None:
        level = generate(6, 5, 1)
        solver = Solver(level.room)
        exact = solver.least_moves(level.boxes, level.player)
        monkeypatch.setattr("openrlhf_lamer.envs.sokoban.solver.SOLVE_BUDGET", 20)
        assert 0 < solver.least_moves(level.boxes, level.player) < exact

    def test_a_board_brings_its_own_boxes_and_the_options_come_back(self) -> None:
        env = make("sokoban", boxes=2)
        board = next(entry for entry in GOLDEN if entry["boxes"] == 3)["initial"]
        assert env.reset(Task("sokoban", spec={"board": board})).text.count("X") == 3
        assert env.reset(Task("sokoban", seed=0)).text.count("X") == 2

    def test_it_says_when_it_is_slow(self) -> None:
        slow = {
            (size, count)
            for size in range(6, 11)
            for count in range(2, 6)
            if make("sokoban", size=size, boxes=count).slow
        }
        assert slow == {(6, 5), (7, 5), (8, 5), (9, 4), (9, 5), (10, 4), (10, 5)}
