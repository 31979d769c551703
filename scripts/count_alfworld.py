"""Count the official ALFWorld training games again, for the table from which games are generated.

    ALFWORLD_DATA=~/alfworld python scripts/count_alfworld.py

This replaces `openrlhf_lamer/envs/alfworld/counts.json`. A changed table generates other games: then raise
`generator.VERSION` and make the generated panels again (`scripts/make_manifests.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from openrlhf_lamer.envs import TaskError
from openrlhf_lamer.envs.alfworld import catalogue, census, counts
from openrlhf_lamer.envs.alfworld.games import GameError

SPLIT = "train"
WALKED = "valid_seen"


def main() -> int:
    """Write the table; returns 1 if official training games are missing."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = catalogue.official_folder()
    try:
        games = list(census.official(SPLIT, folder))
        # Some releases have no walkthroughs in this split.
        walked = games if any(each.commands for each in games) else list(census.official(WALKED, folder))
    except (TaskError, GameError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if Counter(each.task_type for each in games) != catalogue.COUNTS[SPLIT]:
        print(f"{folder / SPLIT} is incomplete; run `{catalogue.DOWNLOAD}`", file=sys.stderr)
        return 1
    source = f"{len(games)} games of ALFWorld's split {SPLIT} ({catalogue.FOLDER}, MIT licence)"
    source += "" if walked is games else f"; walkthroughs of the {len(walked)} games of {WALKED}"
    counts.FILE.write_text(dump(census.table(games, walked, source)), "utf-8")
    print(f"{len(games)} games counted; {counts.FILE} written")
    return 0


def dump(table: dict[str, Any]) -> str:
    """JSON with one line per innermost group, so that versions can be compared."""
    return _lines(table, "") + "\n"


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not any(isinstance(each, dict) for each in value.values()):
        return json.dumps(value)
    inner = ",\n".join(f"{indent} {json.dumps(key)}: {_lines(each, indent + ' ')}" for key, each in value.items())
    return f"{{\n{inner}\n{indent}}}"


if __name__ == "__main__":
    sys.exit(main())
