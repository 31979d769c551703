"""The host's samples generator, with one sample a trial."""

from __future__ import annotations

from typing import Any

from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator

from openrlhf_lamer.integration.experience import TrialExperience


class LamerSamplesGenerator(SamplesGenerator):
    """Dispatch, buffering and filtering are the host's; a response becomes a `TrialExperience`."""

    @classmethod
    def instead_of(cls, host: SamplesGenerator) -> LamerSamplesGenerator:
        """A generator that draws from the same prompts and engines as `host`."""
        return cls(host.strategy, host.prompts_dataloader, host.eval_dataloader, host.tokenizer, host.vllm_engines)

    def _process_response_into_experience(self, response: dict[str, Any], **generate_kwargs: Any) -> TrialExperience:
        return TrialExperience.from_response(response)
