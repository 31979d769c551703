"""Facts about the host: its seams, with the parameters that are used, and its estimators."""

from __future__ import annotations

import pytest

pytest.importorskip("openrlhf")

from openrlhf_lamer.integration import host
from openrlhf_lamer.integration.host import HostError, Seam


def test_the_installed_host_has_every_seam() -> None:
    assert host.probe() is None


@pytest.mark.parametrize(
    ("seam", "message"),
    [
        (
            Seam("trainer/ray/ppo_actor.py", "PolicyModelActor.fit", "a test", ("kl_coef",)),
            r"PolicyModelActor.fit in openrlhf/trainer/ray/ppo_actor.py \(a test\) has no 'kl_coef' but kl_ctl",
        ),
        (
            Seam("trainer/ppo_utils/experience.py", "Experience", "a test", ("sequences", "reward")),
            "Experience in .* has no 'reward' but sequences, attention_mask",
        ),
        (
            Seam("models/utils.py", "compute_reward", "a test", ("kl", "r")),
            "compute_reward in .* has its parameters in another order: r, kl_coef, kl",
        ),
    ],
)
def test_a_host_with_other_parameters_is_refused(monkeypatch: pytest.MonkeyPatch, seam: Seam, message: str) -> None:
    monkeypatch.setattr(host, "SEAMS", (*host.SEAMS, seam))
    with pytest.raises(HostError, match=f"{message}.*Known to work: openrlhf==0.11.2"):
        host.probe()


def test_all_estimators_of_the_host_are_known() -> None:
    (action,) = [a for a in host.host_parser()._actions if a.dest == "algo.advantage.estimator"]
    assert set(action.choices or ()) == set(host.ESTIMATORS)


def test_an_estimator_with_the_same_needs_stands_in() -> None:
    assert host.stand_in(critic=True, group=False) == host.stand_in(critic=True, group=True) == "gae"
    assert host.stand_in(critic=False, group=True) == "group_norm"
    assert host.stand_in(critic=False, group=False) == "reinforce"
