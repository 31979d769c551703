"""Memory of all processes while trials go from rollout to training: `make soak`.

    python benchmarks/soak.py [--trials 20000]

There are three processes, as in training. A rollout actor plays trials of MineSweeper and Sokoban on the real executor;
its engine answers at once with random actions and remarks. A trainer actor dispatches tasks, turns each batch into rows
and credits them, with made-up scores. The driver asks for one batch after another. Now and then the engine raises or
returns no action, and an environment raises or hangs.

Prints each process's private memory, without Ray's object store, under the launcher's allocator setting. Memory may
grow by 5% from the first fifth of the run to its end, judged by the lower end of the 95% interval of a robust slope
(Theil-Sen), so that a short run fails for a leak and not for noise. Exits with code 1 if memory grows, or if trials
were lost.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from common import answer, experience_maker, grid, show
from scipy.stats import theilslopes

from openrlhf_lamer import envs
from openrlhf_lamer.agents import load_agent
from openrlhf_lamer.agents.base import PROMPTS
from openrlhf_lamer.chat import Chat
from openrlhf_lamer.config import ENV_VAR, LamerConfig
from openrlhf_lamer.envs import Step, Task, TextEnv
from openrlhf_lamer.envs.minesweeper import MineSweeper
from openrlhf_lamer.envs.sokoban.env import Sokoban
from openrlhf_lamer.integration import cpu
from openrlhf_lamer.integration.launch.launcher import MEMORY_ENV
from openrlhf_lamer.policies.engine import EnginePolicy
from openrlhf_lamer.warmstart.model import build_tokenizer

GROUP, TASKS = 8, 4
"""Trials of a task, tasks in a batch."""
GROWTH = 0.05
"""Allowed growth of memory, once warm."""
WARM_UP = 0.2
"""Share of the batches that are not judged."""
MAX_TOKENS, MAX_LENGTH = 128, 6000
ENV_TIMEOUT = 2.0
LUCK = random.Random(0)
PROCESSES = ("driver", "trainer", "rollout")
CONFIG = LamerConfig(num_episodes=3, env_timeout=ENV_TIMEOUT, max_failed_share=0.5)


class Flaky(TextEnv):
    """Raises in one of a thousand steps, and hangs in one of ten thousand."""

    def step(self, action: str) -> Step:
        drawn = LUCK.random()
        if drawn < 0.0001:
            time.sleep(ENV_TIMEOUT + 1)
        elif drawn < 0.001:
            raise OSError("the game server is busy")
        return super().step(action)


FLAKY: dict[str, Any] = {
    game.name: type("Flaky", (Flaky, game), {"name": f"flaky_{game.name}"}) for game in (MineSweeper, Sokoban)
}


class Process:
    """An actor that reports its memory."""

    def memory(self) -> float:
        """Private memory of this process in megabytes."""
        gc.collect()
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024


class Rollout(Process):
    """The host's rollout actor as an executor sees it, with a made-up engine."""

    def __init__(self) -> None:
        if not cpu.cuda_available():
            cpu.install()
        from openrlhf_lamer.integration.rollout.executor import executor_class

        self._executors = {}
        for name, game in FLAKY.items():
            envs.register(game.name, game)
            agent, _ = load_agent(f"openrlhf_lamer.agents.{name}")
            flaky = replace(agent, env=game.name, prompts=PROMPTS / name)
            self._executors[game.name] = executor_class(flaky)()
        self._rng = random.Random(1)
        self._chat: Chat | None = None

    async def generate_responses(
        self, prompt: str, label: str, params: Any, max_length: int, tokenizer: Any, num_samples: int
    ) -> list[dict[str, Any]]:
        """Like the host's method: the samples of one prompt, played at once."""
        if self._chat is None:
            self._chat = Chat(tokenizer)
            for executor in self._executors.values():
                executor.take(tokenizer)
        task, policy = Task.from_json(label), EnginePolicy(self, params)
        limits = {"max_new_tokens": params.max_tokens, "max_length": max_length}
        play = self._executors[task.env].play
        return await asyncio.gather(
            *(play(prompt, task, policy, sample=sample, seed=None, **limits) for sample in range(num_samples))
        )

    async def generate(self, prompt_token_ids: list[int], sampling_params: Any) -> Any:
        """A reply in vLLM's form."""
        assert self._chat is not None
        await asyncio.sleep(0)
        drawn = self._rng.random()
        if drawn < 0.001:
            raise RuntimeError("the engine is out of memory")
        asked = self._chat.decode(prompt_token_ids[-80:])
        text = "hm " * self._rng.randrange(30) + self._say(asked) if drawn < 0.97 else "hm " * 200
        ids = [*self._chat.encode(text), *self._chat.end_of_reply][: sampling_params.max_tokens]
        logprobs = [{token: SimpleNamespace(logprob=-0.1)} for token in ids]
        reason = "length" if len(ids) == sampling_params.max_tokens else "stop"
        return answer(ids, logprobs, reason)

    def _say(self, asked: str) -> str:
        rng = self._rng
        if "<remark>" in asked:
            return f"<remark>Attempt {rng.randrange(1000)} was no good.</remark>"
        if "cell" in asked:
            return f"<action>({rng.randint(1, 6)}, {rng.randint(1, 6)})</action>"
        return f"<action>{', '.join(rng.choices(('up', 'down', 'left', 'right'), k=3))}</action>"


class Trainer(Process):
    """Dispatches tasks, and does with their trials what the trainer does before the optimiser."""

    def __init__(self, rollout: Any, tokenizer: Any) -> None:
        self._rollout, self._tokenizer = rollout, tokenizer
        self._maker = experience_maker(CONFIG, tokenizer, GROUP, ranks=1)

    def step(self, tasks: Sequence[Task]) -> dict[str, float]:
        """Counts of one batch: trials, failed ones, retries, and rows."""
        from openrlhf_lamer.integration.rollout.sample import TrialExperience
        from openrlhf_lamer.integration.training.logs import batch_metrics

        params = SimpleNamespace(max_tokens=MAX_TOKENS, min_tokens=0, logprobs=0)
        references = [
            self._rollout.generate_responses.remote(task.id, task.to_json(), params, MAX_LENGTH, self._tokenizer, GROUP)
            for task in tasks
        ]
        samples = [TrialExperience.from_response(each) for found in ray.get(references) for each in found]
        self._maker.make_experience_batch(samples)
        batch, trials = self._maker.batch, self._maker.batch.trials
        return {
            "trials": len(trials),
            "failed": len(trials) - len(batch.live),
            "retries": sum(trial.retries for trial in trials),
            "episodes": sum(len(trial.episodes) for trial in trials),
            "rows": batch_metrics(batch, CONFIG)["rows"],
        }


@dataclass(frozen=True)
class Growth:
    """Growth of memory after the warm-up: megabytes for each 1,000 trials, estimated and at least (95%)."""

    slope: float
    least: float
    exceeds: bool

    @classmethod
    def of(cls, trials: Sequence[int], megabytes: Sequence[float]) -> Growth:
        """From the trials so far and the memory after each batch."""
        start = int(len(trials) * WARM_UP)
        thousands = [number / 1000 for number in trials[start:]]
        found: Any = theilslopes(megabytes[start:], thousands)
        least = float(found.low_slope)
        exceeds = least * (thousands[-1] - thousands[0]) > GROWTH * megabytes[start]
        return cls(float(found.slope), least, exceeds)


def soak(trials: int) -> tuple[list[int], dict[str, list[float]], Counter[str], float]:
    """Play and train; returns trials so far and each process's memory after each batch, counts, and seconds."""
    corpus = [path.read_text("utf-8") for path in sorted(PROMPTS.rglob("*.j2"))]
    tokenizer = build_tokenizer(corpus, 2000, MAX_LENGTH)
    # Exactly one batch in flight: a small store is enough, and one that is not emptied soon overflows.
    options: dict[str, Any] = {"object_store_memory": 200 << 20, "runtime_env": {"env_vars": MEMORY_ENV}}
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, **options)
    try:
        rollout_class: Any = ray.remote(num_cpus=1)(Rollout)
        rollout: Any = rollout_class.options(max_concurrency=1000).remote()
        trainer: Any = ray.remote(num_cpus=1)(Trainer).remote(rollout, tokenizer)
        counts: Counter[str] = Counter()
        done: list[int] = []
        memory: dict[str, list[float]] = {name: [] for name in PROCESSES}
        ray.get([rollout.memory.remote(), trainer.memory.remote()])
        began = time.monotonic()
        for batch in range(-(-trials // (TASKS * GROUP))):
            name = list(FLAKY.values())[batch % 2].name
            tasks = [Task(name, seed=seed) for seed in range(batch * TASKS, (batch + 1) * TASKS)]
            counts.update(ray.get(trainer.step.remote(tasks)))
            done.append(int(counts["trials"]))
            found = Process().memory(), *ray.get([trainer.memory.remote(), rollout.memory.remote()])
            for process, megabytes in zip(PROCESSES, found, strict=True):
                memory[process].append(megabytes)
        return done, memory, counts, time.monotonic() - began
    finally:
        ray.shutdown()


def main() -> int:
    """Soak, print tables, and say whether memory stayed flat."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=20_000)
    trials = parser.parse_args().trials
    os.environ[ENV_VAR] = CONFIG.to_env()
    done, memory, counts, seconds = soak(trials)
    table = grid("Private memory (MB)", "trials", *PROCESSES)
    for i in sorted({round(share * (len(done) - 1) / 20) for share in range(21)}):
        table.add_row(f"{done[i]:,}", *(f"{memory[process][i]:,.1f}" for process in PROCESSES))
    found = {process: Growth.of(done, memory[process]) for process in PROCESSES}
    table.add_row("per 1,000", *(f"{each.slope:+.2f}" for each in found.values()))
    table.add_row("at least", *(f"{each.least:+.2f}" for each in found.values()))
    table.add_row("", *("[red]grew[/]" if each.exceeds else "flat" for each in found.values()))
    show(table)
    played, figures = counts["trials"], [f"{counts[key]:.0f}" for key in ("failed", "retries")]
    print(
        f"{played:,.0f} trials in {seconds:,.0f} s ({played / seconds:.1f} a second): {figures[0]} failed, "
        f"{figures[1]} tries again, {counts['episodes']:,.0f} episodes, {counts['rows']:,.0f} rows"
    )
    return 1 if any(each.exceeds for each in found.values()) or counts["trials"] < trials else 0


if __name__ == "__main__":
    sys.exit(main())
