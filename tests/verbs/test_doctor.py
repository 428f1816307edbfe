"""The doctor's advice follows its measurements."""

from __future__ import annotations

from potstill.verbs.doctor import _advice, _machine, _trial


def trial_of(tokens: float, step: float) -> dict[str, float]:
    return {"tokens_per_s": tokens, "training_step_s": step}


def test_passive_is_kept_where_it_is_faster_and_questioned_where_it_is_slower() -> None:
    assert "keep PASSIVE" in _advice(trial_of(25, 6.0), trial_of(160, 0.4))
    assert "OMP_WAIT_POLICY=ACTIVE" in _advice(trial_of(200, 0.5), trial_of(130, 0.6))
    assert "could not be compared" in _advice({"error": "no torch"}, trial_of(1, 1))


def test_a_trial_measures_generation_and_training_in_a_child() -> None:
    found = _trial("PASSIVE")
    assert found["tokens_per_s"] > 0
    assert found["training_step_s"] > 0


def test_the_machine_is_described() -> None:
    found = _machine()
    assert found["cores"] >= 1
    assert None not in found["packages"].values()
    assert set(found["starter_pack"]) == {"starter-teacher", "starter-student"}
