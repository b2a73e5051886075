"""Losses: a teacher's distribution cut to its likeliest tokens, and labels with and without a teacher in one batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from train.model.objective import summed_loss, targets_of, top_k_divergence
from train.texts.batches import IGNORED, Batch, Teacher

VOCABULARY = 12
CASES = {"seed": st.integers(0, 999), "k": st.integers(1, VOCABULARY), "sharpness": st.floats(0.1, 30)}


def logits_of(seed: int, sharpness: float, *shape: int) -> torch.Tensor:
    return sharpness * torch.randn(*shape, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def top_of(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs, ids = logits.log_softmax(-1).topk(k)
    return ids, log_probs


@given(**CASES)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(seed: int, k: int, sharpness: float) -> None:
    student = logits_of(seed, sharpness, 4).requires_grad_()
    divergence = top_k_divergence(student, *top_of(student.detach(), k))
    assert divergence.tolist() == pytest.approx([0.0] * 4, abs=1e-4)
    divergence.sum().backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-4


@given(**CASES)
def test_it_is_the_full_divergence_at_k_of_all_tokens_and_never_more(seed: int, k: int, sharpness: float) -> None:
    student, teacher = logits_of(seed, sharpness, 4).requires_grad_(), logits_of(seed + 1000, sharpness, 4)
    full = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert top_k_divergence(student, *top_of(teacher, VOCABULARY)).tolist() == pytest.approx(
        full.tolist(), rel=1e-4, abs=1e-4
    )
    cut = top_k_divergence(student, *top_of(teacher, k))
    assert (cut >= -1e-4).all() and (cut <= full * (1 + 1e-4) + 1e-4).all()
    cut.sum().backward()
    assert student.grad is not None and student.grad.isfinite().all()


def test_learning_a_cut_distribution_teaches_the_masses_of_its_tokens() -> None:
    teacher, student = logits_of(0, 2.0, 1), torch.zeros(1, VOCABULARY, requires_grad=True)
    ids, log_probs = top_of(teacher, 3)
    optimizer = torch.optim.SGD([student], lr=1.0)
    for _ in range(2000):
        optimizer.zero_grad()
        top_k_divergence(student, ids, log_probs).sum().backward()
        optimizer.step()
    learned = student.softmax(-1)[0, ids[0]]
    assert learned.tolist() == pytest.approx(log_probs.exp()[0].tolist(), abs=1e-3)


def test_labels_without_a_teacher_cost_their_cross_entropy_and_ignored_ones_nothing() -> None:
    logits = logits_of(3, 2.0, 2, 3)
    labels = np.array([[1, 2, IGNORED], [4, IGNORED, IGNORED]])
    ids, log_probs = (part.numpy() for part in top_of(logits_of(4, 2.0, 2, 3), 5))
    mask = np.array([[True, False, False], [False, True, False]])  # the last one stands where no label is
    batch = Batch(labels, labels, 3, np.arange(2), teacher=Teacher(ids, log_probs, mask))
    taught = top_k_divergence(logits[0, :1], torch.from_numpy(ids[0, :1]), torch.from_numpy(log_probs[0, :1]))
    plain = cross_entropy(logits[[0, 1], [1, 0]], torch.tensor([2, 4]), reduction="sum")
    assert loss_of(logits, batch) == pytest.approx(float(taught.sum() + plain), abs=1e-5)
    whole = Batch(labels, labels, 3, np.arange(2))
    assert loss_of(logits, whole) == pytest.approx(float(plain + cross_entropy(logits[0, :1], torch.tensor([1]))))


def loss_of(logits: torch.Tensor, batch: Batch) -> float:
    targets = targets_of(batch, "cpu")
    return float(summed_loss(logits.flatten(0, 1)[targets.positions], targets))
