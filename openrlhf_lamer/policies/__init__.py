"""Sources of replies: an engine, an endpoint, or a script. The trial loop does not know which."""

from openrlhf_lamer.policies.base import EngineError, EngineGoneError, Generation, Policy, Request

__all__ = ["EngineError", "EngineGoneError", "Generation", "Policy", "Request"]
