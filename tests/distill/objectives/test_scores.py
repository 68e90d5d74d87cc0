"""Scores per transition, and how many turns follow from them."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from fewstep.distill.objectives.scores import Balance, Scores


def test_each_transition_has_its_own_average() -> None:
    scores = Scores(3)
    real, fake = torch.tensor([[1.0, 1.0], [0.0, 2.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    scores.update(torch.tensor([0, 0, 2]), real, fake)
    figures = scores.figures(torch.tensor([0.75, 0.5, 0.0]))
    names = ("accuracy", "logits_real", "logits_fake")
    assert set(figures) == {f"{name}_to_{end}" for name in names for end in (0.75, 0)}
    assert float(figures["accuracy_to_0.75"]) == pytest.approx(0.75)  # 3 of 4 heads' pairs
    assert float(figures["accuracy_to_0"]) == 0
    assert float(figures["logits_real_to_0.75"]) == pytest.approx(1.0)
    assert float(figures["logits_fake_to_0"]) == pytest.approx(2.0)
    assert scores.accuracy == pytest.approx((0.75 + 0.0) / 2)  # one was not seen, as where an expert trains alone


def test_averages_move_with_what_is_seen_and_are_not_pulled_to_zero() -> None:
    scores, one, zero = Scores(1), torch.ones(4, 1), torch.zeros(4, 1)
    for _ in range(3):
        scores.update(torch.zeros(4, dtype=torch.long), one, zero)
    assert scores.accuracy == pytest.approx(1.0)
    scores.update(torch.zeros(4, dtype=torch.long), zero, one)
    assert 0.5 < scores.accuracy < 1.0
    other = Scores(1)
    other.load_state_dict(scores.state_dict())
    assert other.accuracy == scores.accuracy


def test_without_memory_every_pair_counts_the_same() -> None:
    scores, one, zero = Scores(2, memory=None), torch.ones(3, 1), torch.zeros(3, 1)
    scores.update(torch.tensor([0, 0, 1]), one, zero)
    scores.update(torch.tensor([0]), zero[:1], one[:1])
    assert scores.accuracies.tolist() == pytest.approx([2 / 3, 1]) and scores.weights.tolist() == [3, 1]


def test_turns_follow_accuracy() -> None:
    balance = Balance(low=0.6, high=0.9, most=4)
    assert [balance.turns(accuracy, 1) for accuracy in (0.5, 0.59, 0.6, 0.9, 0.91)] == [4, 4, 1, 1, 0]
    assert balance.turns(0.5, usual=6) == 6  # never fewer than the usual number where it falls behind


def test_a_student_follows_a_discriminator_as_far_as_it_is_right() -> None:
    trust = Balance(low=0.6, high=0.9).trust(torch.tensor([0.2, 0.5, 0.55, 0.6, 1.0]))
    assert trust.tolist() == pytest.approx([0, 0, 0.5, 1, 1])


def test_settings_refuse() -> None:
    for wrong in ({"low": 0.9, "high": 0.6}, {"low": 0.5}, {"most": 0}, {"mid": 0.5}):
        with pytest.raises(ValidationError):
            Balance.model_validate(wrong)
