from __future__ import annotations

import itertools

import numpy as np
import pytest

from potstill.statistics import (
    detectable_difference,
    deviation_of_difference,
    difference,
    mean_score,
    quantile_score,
    resampled_score,
    retention,
    wilson,
)


def test_the_mean_of_two_rows_has_the_interval_of_all_four_resamples() -> None:
    # resamples of (0, 1): means 0, .5, .5, 1 with probability 1/4, 1/2, 1/4, so both 2.5% tails lie on the ends
    score = mean_score([0.0, 1.0])
    assert (score.value, score.low, score.high, score.n) == (0.5, 0.0, 1.0, 2)


def test_the_interval_equals_one_of_every_possible_resample() -> None:
    rows = [0.0, 0.2, 0.9, 1.0, 0.5]
    means = [np.mean(drawn) for drawn in itertools.product(rows, repeat=5)]
    low, high = np.percentile(means, [2.5, 97.5])
    score = mean_score(rows, samples=40_000)
    assert score.value == pytest.approx(0.52)
    assert (score.low, score.high) == (pytest.approx(low, abs=0.015), pytest.approx(high, abs=0.015))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    rows = np.random.default_rng(1).random(50).tolist()
    assert mean_score(rows, seed=3) == mean_score(rows, seed=3)
    assert mean_score(rows, seed=3) != mean_score(rows, seed=4)


def test_rows_without_a_value_are_left_out() -> None:
    assert mean_score([1.0, None, 0.0, None]).n == 2
    assert mean_score([1.0, None, 0.0, None]).value == 0.5


def test_no_rows_give_no_value_and_say_why() -> None:
    for score in (mean_score([]), mean_score([None]), quantile_score([], 0.5), difference([], []), retention([None], [1.0])):
        assert score.value is None
        assert score.low is None
        assert score.n == 0
        assert score.why is not None
        assert "no row" in score.why


def test_twenty_right_of_twenty_do_not_prove_a_hundred_percent() -> None:
    score = mean_score([1.0] * 20)
    assert score.value == 1.0
    assert score.low == pytest.approx(0.8389, abs=1e-4)
    assert score.high == 1.0
    assert mean_score([0.0] * 20).high == pytest.approx(0.1611, abs=1e-4)


def test_one_right_row_has_wilsons_interval_and_one_other_row_has_none() -> None:
    assert mean_score([1.0]).low == pytest.approx(0.2065, abs=1e-4)
    assert mean_score([0.4]).low is None
    assert mean_score([0.4]).why == "one row has no interval"


def test_equal_rows_that_are_no_proportion_have_no_interval() -> None:
    score = mean_score([0.4] * 10)
    assert (score.low, score.high, score.why) == (None, None, "all rows have the same value")


def test_wilson_agrees_with_the_textbook() -> None:
    low, high = wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)


def test_a_paired_difference_uses_only_rows_that_both_have() -> None:
    score = difference([1.0, 1.0, None, 0.0], [0.0, 1.0, 1.0, None])
    assert (score.value, score.n) == (0.5, 2)


def test_pairing_makes_the_difference_sharper_than_two_separate_samples() -> None:
    rng = np.random.default_rng(0)
    teacher = (rng.random(500) < 0.7).astype(float)
    student = np.where(rng.random(500) < 0.04, 1 - teacher, teacher)
    paired = difference(student.tolist(), teacher.tolist())
    shuffled = difference(rng.permutation(student).tolist(), teacher.tolist())
    assert paired.low is not None
    assert paired.high is not None
    assert shuffled.low is not None
    assert shuffled.high is not None
    assert (paired.high - paired.low) < 0.5 * (shuffled.high - shuffled.low)


def test_two_systems_that_agree_on_every_row_are_not_proven_equal() -> None:
    same = [1.0, 0.0] * 10
    score = difference(same, same)
    assert score.value == 0
    assert score.low == pytest.approx(-0.1611, abs=1e-4)
    assert score.high == pytest.approx(0.1611, abs=1e-4)


def test_a_system_that_is_better_on_every_row_is_shown_better() -> None:
    score = difference([1.0] * 20, [0.0] * 20)
    assert score.value == 1
    assert score.low == pytest.approx(0.8389, abs=1e-4)
    worse = difference([0.0] * 20, [1.0] * 20)
    assert worse.high == pytest.approx(-0.8389, abs=1e-4)


def test_retention_is_the_ratio_of_the_means_on_the_same_rows() -> None:
    teacher = [1.0] * 80 + [0.0] * 20
    student = [1.0] * 76 + [0.0] * 24
    score = retention(student, teacher)
    assert score.value == pytest.approx(0.95)
    assert score.low is not None
    assert score.high is not None
    assert 0.88 < score.low < 0.95 < score.high <= 1.0


def test_retention_of_a_teacher_that_is_never_right_is_undefined() -> None:
    score = retention([1.0, 0.0], [0.0, 0.0])
    assert (score.value, score.low) == (None, None)
    assert score.why is not None
    assert "nothing to keep" in score.why


def test_retention_of_a_teacher_that_is_hardly_ever_right_has_no_interval() -> None:
    score = retention([1.0, 0.0, 0.0], [1.0, 0.0, 0.0][::-1])
    assert score.value == 1.0
    assert score.low is None
    assert score.why is not None


def test_retention_of_a_perfect_copy_still_has_width() -> None:
    same = [1.0] * 15 + [0.0] * 5
    score = retention(same, same)
    assert score.value == 1.0
    assert score.low == pytest.approx(1 - 0.1611 / 0.75, abs=1e-3)
    assert score.high == pytest.approx(1 + 0.1611 / 0.75, abs=1e-3)


def test_a_quantile_has_an_interval_of_rows() -> None:
    rows = [float(i) for i in range(1, 101)]
    score = quantile_score(rows, 0.5)
    assert score.value == 50.5
    assert score.low is not None
    assert score.high is not None
    assert 38 < score.low < 45
    assert 56 < score.high < 63
    assert quantile_score([3.0], 0.95).why == "one row has no interval"


def test_any_statistic_can_be_resampled() -> None:
    rows = np.random.default_rng(0).random(60)
    score = resampled_score(lambda numbers: float(rows[list(numbers)].max()), 60)
    assert score.value == rows.max()
    assert score.low is not None
    assert score.low < rows.max()
    assert resampled_score(lambda _: None, 5).value is None
    assert resampled_score(lambda _: 0.5, 5).why == "every resample gives the same value"


def test_the_smallest_detectable_difference_follows_the_square_root_of_n() -> None:
    at_100, at_400 = detectable_difference(100, 0.4), detectable_difference(400, 0.4)
    assert at_100 == pytest.approx(2.801585 * 0.04, rel=1e-5)
    assert at_100 is not None
    assert at_400 == pytest.approx(at_100 / 2)
    assert detectable_difference(0) is None


def test_the_deviation_of_paired_rows_is_the_sample_one() -> None:
    assert deviation_of_difference([1.0, 0.0], [0.0, 0.0]) == pytest.approx(np.std([1, 0], ddof=1))
    assert deviation_of_difference([1.0], [0.0]) is None
    assert deviation_of_difference([1.0, 1.0], [1.0, 1.0]) is None


def test_about_95_of_100_intervals_of_a_mean_hold_the_truth() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(300):
        score = mean_score((rng.random(200) < 0.8).astype(float).tolist(), samples=500)
        assert score.low is not None
        assert score.high is not None
        hits += score.low <= 0.8 <= score.high
    assert 0.91 <= hits / 300 <= 0.985


def test_about_95_of_100_intervals_of_difference_and_retention_hold_the_truth() -> None:
    rng = np.random.default_rng(6)
    hits_difference = hits_retention = 0
    for _ in range(300):
        teacher = rng.random(300) < 0.8
        student = np.where(teacher, rng.random(300) < 0.9, rng.random(300) < 0.2)  # true mean .72 + .04 = .76
        gap = difference(student.astype(float).tolist(), teacher.astype(float).tolist(), samples=500)
        kept = retention(student.astype(float).tolist(), teacher.astype(float).tolist(), samples=500)
        assert gap.low is not None
        assert gap.high is not None
        assert kept.low is not None
        assert kept.high is not None
        hits_difference += gap.low <= -0.04 <= gap.high
        hits_retention += kept.low <= 0.95 <= kept.high
    assert 0.91 <= hits_difference / 300 <= 0.985
    assert 0.91 <= hits_retention / 300 <= 0.985
