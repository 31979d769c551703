"""WebShop (Yao et al., 2022) in one process: no Java, no web server, no browser.

`synthetic` makes a catalogue from a seed and `source` reads the original's files; both give the
same rows. `compiling` turns rows into a `shop.Shop`, in memory or on disk (`stored`). A shop is
immutable and shared: `ranking` searches it, `scoring` rates a purchase, `session` is one
shopper's way through the pages, and `env.WebShop` makes that an environment.
"""

from __future__ import annotations

from importlib.util import find_spec

from openrlhf_lamer.envs.base import TaskError


def require() -> None:
    """Raise `TaskError` with the remedy where a package of the extra `webshop` is not installed."""
    for module in ("nltk", "rapidfuzz", "regex"):
        if find_spec(module) is None:
            raise TaskError(
                f"webshop: the package {module!r} is not installed; run pip install 'openrlhf-lamer[webshop]'"
            )
