"""Post-import hooks: code that runs around the import of a module, once, when somebody else imports it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import ModuleType
from typing import Any

Patch = Callable[[Any], None]
Around = Callable[[], AbstractContextManager[None]]

# By name of the module they wait for: patches that run once it is imported, and contexts that its import runs in.
_PATCHES: dict[str, list[Patch]] = {}
_AROUND: dict[str, list[Around]] = {}


def after_import(name: str) -> Callable[[Patch], Patch]:
    """Register a function that gets the module `name` right after its code has run."""

    def register(patch: Patch) -> Patch:
        _PATCHES.setdefault(name, []).append(patch)
        return patch

    return register


def during_import(name: str) -> Callable[[Around], Around]:
    """Register a context manager that the code of the module `name` runs in."""

    def register(around: Around) -> Around:
        _AROUND.setdefault(name, []).append(around)
        return around

    return register


def replace(owner: Any, attribute: str, value: object) -> None:
    """Set an attribute that must be there: one that is gone means a host other than the one this was written for."""
    if not hasattr(owner, attribute):
        from openrlhf_lamer.integration.host import KNOWN_VERSIONS, VLLM_VERSION  # not at every start of Python

        name = getattr(owner, "__name__", repr(owner))
        known = f"openrlhf {KNOWN_VERSIONS[-1]} with vllm {VLLM_VERSION}"
        raise AttributeError(f"CPU mode replaces {name}.{attribute}, which is not here; it is written for {known}")
    setattr(owner, attribute, value)


class HookFinder(importlib.abc.MetaPathFinder):
    """First in `sys.meta_path`: lets the others find a module and wraps the execution of those that hooks wait for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Answer for modules with hooks only; all others are left to the finders behind this one."""
        if fullname not in _PATCHES and fullname not in _AROUND:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if find is None or isinstance(finder, HookFinder):
                continue
            spec = find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _wrap(spec.loader, fullname)
                return spec
        return None


def _wrap(loader: Any, name: str) -> None:
    """Run the hooks of `name` in this loader's `exec_module`.

    The loader stays what it is, with one method covered on the instance: a loader of another class would hide what
    `inspect` and `importlib.resources` look for.
    """
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module  # once: a reload meets the plain loader
        with ExitStack() as stack:
            for around in _AROUND.get(name, ()):
                stack.enter_context(around())
            execute(module)
        _patch(name, module)

    loader.exec_module = exec_module


def _patch(name: str, module: ModuleType) -> None:
    for patch in _PATCHES.get(name, ()):
        patch(module)


def active() -> bool:
    """Whether `activate` has run in this process."""
    return any(isinstance(finder, HookFinder) for finder in sys.meta_path)


def activate() -> None:
    """Run the hooks from here on, and at once for modules imported before."""
    sys.meta_path.insert(0, HookFinder())
    for name in _PATCHES:
        module = sys.modules.get(name)
        if module is not None:
            _patch(name, module)
