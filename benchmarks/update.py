"""Scoring and training of the same trials in three ways: padded, packed, and as forests of distinct tokens.

    python benchmarks/update.py [--env NAME ...] [--context turn episode] [--trials N] [--tokens N] [--json] [--quick]
    python benchmarks/update.py --shape 4b --device cuda

- padded: micro-batches of 8 rows, with log-probabilities at every position; scored by length, trained in random order,
  as the host shuffles rows.
- packed: rows without padding in micro-batches of `--tokens` tokens, each row attending to itself.
- forest: each distinct token of a micro-batch once, and at most `--tokens` of them.

Trials are recorded from random play with replies of 140 tokens. Their tokenizer is a BPE trained on texts of the
environments, since none can be downloaded; it has 3,006 tokens. The model is a Qwen3 with random weights and a
vocabulary of 4,096, so that its head holds 14% of the weights (in Qwen3-4B, 10%): a larger head would favour the
forest, which has logits only where a token is trained. Training is forward and backward of a policy gradient, without
an optimizer. On the CPU every variant runs in a separate process, and memory is the peak growth of that process. On
CUDA the variants share a process and a model; each runs twice and the second run counts, since the first compiles
attention; memory is PyTorch's peak allocation beyond the model.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import get_args

from common import grid, show
from rich.console import Console
from rich.progress import track
from torch import get_num_threads
from updates.recorded import ENVIRONMENTS, Batch, build_chat, recorded
from updates.variants import SHAPES, Cost, Shape, Variant, measure


def costs(batch: Batch, limit: int, shape: Shape, device: str) -> dict[Variant, Cost]:
    """The cost of each variant."""
    if device == "cuda":
        return {variant: measure(variant, batch, limit, shape, device) for variant in get_args(Variant)}
    found: dict[Variant, Cost] = {}
    for variant in get_args(Variant):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found[variant] = process.submit(measure, variant, batch, limit, shape, device).result()
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=[*ENVIRONMENTS], choices=ENVIRONMENTS)
    parser.add_argument("--context", nargs="+", default=["turn", "episode"], choices=["turn", "episode", "trial"])
    parser.add_argument("--trials", type=int, default=2, help="trials of each environment, each on a task of its own")
    parser.add_argument("--tokens", type=int, default=16_192, help="the limit; the host's by default")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="size of the model")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="one trial each, and a tiny model")
    parser.add_argument("--json", action="store_true", help="print figures for scripts")
    args = parser.parse_args()
    trials, name = (1, "tiny") if args.quick else (args.trials, args.shape)
    shape, chat, figures = SHAPES[name], build_chat(), []
    model = f"{shape.layers} layers of width {shape.width}, {get_num_threads()} threads"
    title = f"{trials} trials each, at most {args.tokens:,} tokens; {model}"
    headings = (
        "trials of",
        "context",
        "rows",
        "run as",
        "tokens",
        "fewer",
        "to limit",
        "plan s",
        "score s",
        "train s",
        "faster",
        "MB",
    )
    table = grid(title, *headings, left=("context", "run as"))
    cells = [(env, context) for env in args.env for context in args.context]
    for env, context in track(cells, "batches", console=Console(stderr=True)):
        batch = recorded(env, context, trials, chat)
        found = costs(batch, args.tokens, shape, args.device)
        within, padded = batch.within_trials, found["padded"]
        in_rows = sum(map(len, batch.ids))
        of_batch = {"env": env, "context": context, "rows": len(batch.rows), "in_rows": in_rows, "within": within}
        for variant, cost in found.items():
            figures.append({**of_batch, "variant": variant, **asdict(cost)})
            table.add_row(
                *((env, context, str(len(batch.rows))) if variant == "padded" else [""] * 3),
                variant,
                f"{cost.tokens:,}",
                f"{padded.tokens / cost.tokens:.2f}",
                f"{cost.tokens / within:.3f}",
                f"{cost.planning:.3f}",
                f"{cost.scoring:.1f}",
                f"{cost.training:.1f}",
                f"{padded.seconds / cost.seconds:.2f}",
                f"{cost.megabytes:,.0f}",
            )
    if args.json:
        print(json.dumps(figures))
    else:
        show(table, 120)


if __name__ == "__main__":
    main()
