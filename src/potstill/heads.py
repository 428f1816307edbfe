"""What follows for a job from a student with a head of labels: what it needs, which teachers tell of labels, its defaults."""

from __future__ import annotations

from collections.abc import Sequence

from .contracts import Combiner, Loss, Task, Teacher
from .recipe import StudentSettings, TrainSettings
from .types import Signal

LABEL_TEMPERATURE = 4.0
"""A teacher that is right is nearly sure, and at T = 1 its distribution over a few labels says no more than the label. Hinton et
al. (2015, arXiv 1503.02531) found 2.5 to 4 best for small students, and higher ones for large."""


def head_problem(student: StudentSettings, task: Task, train: TrainSettings) -> str | None:
    """Why this student cannot learn the labels of this task; None when it can."""
    labels = task.labels_asked()
    who = f"the student {student.model} chooses among labels (student.head: labels)"
    if not labels:
        way = "name them in task.labels" if hasattr(task, "labels") else "take a student that writes text, or another task"
        return f"{who}, and the task {task.kind} has no closed set of them; {way}"
    if len(labels) < 2:
        return f"{who}, and task.labels holds {labels[0]!r} alone; name two labels at least"
    thought = getattr(task, "chain_of_thought", None)
    if thought is not None and thought.student_learns != "answer":
        return (
            f"{who}, so it cannot learn to reason: task.chain_of_thought.student_learns is {thought.student_learns!r}; "
            "set it to answer, or take a student that writes text"
        )
    if train.signals == "live":
        return f"{who}, and label scores are captured once for all epochs; set train.signals to auto"
    return None


def tells_labels(teachers: Sequence[Teacher], samples: int, combiner: Combiner | None) -> bool:
    """Whether the job's teachers tell more of a row's labels than one text: scores of weights that are here, probabilities that
    a server gives, or votes of several answers."""
    asks_all = combiner is None or type(combiner).asks is Combiner.asks  # one that chooses whom to ask (route) may ask one alone
    votes = (samples > 1 or (len(teachers) > 1 and asks_all)) and (combiner is None or combiner.answers_vote)
    return votes or scores_labels(teachers) or any(one.gives_label_probabilities for one in teachers)


def scores_labels(teachers: Sequence[Teacher]) -> bool:
    """Whether every teacher has its weights on this machine, so that labels are scored with them."""
    return all(teacher.gives >= Signal.TOPK and teacher.local_model() is not None for teacher in teachers)


def loss_problem(losses: Sequence[Loss], teachers: Sequence[Teacher], told: bool) -> str | None:
    """Which loss a student with a head of labels cannot have from these teachers."""
    for loss in losses:
        if loss.needs > Signal.FULL:
            return f"train.losses: {loss.kind} compares layers, and a student with a head of labels learns from labels alone"
        if loss.ranked:
            return f"train.losses: {loss.kind} compares sorted distributions, which tells no label from another; use forward_kl"
        if loss.needs > Signal.TEXT and not told:
            return (
                f"train.losses: {loss.kind} needs probabilities of labels, and the teacher {teachers[0].label} gives one text "
                "a row; use cross_entropy, a teacher whose weights are on this machine, one that gives probabilities "
                "(openai_decisions), or several answers that vote (generate.samples)"
            )
    return None
