"""Tokens of two tokenizers laid beside each other by the bytes that they spell.

    bytes     G  u  t  e  n     T  a  g            end of turn
    teacher  |G  u  t  e  n|   T  a  g |           |<end>      |
    student  |G  u  t |e  n|   T| a  g |           |<\\|im_end\\|>|
    groups   |      1      |     2      |           |     3     |

Where both have a boundary a group ends. So each byte is in one group, the first token's too, and the end of the turn, whatever
either tokenizer calls it, is a group of its own at the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .spelling import Spelled

Places = npt.NDArray[np.int64]


class Groups(NamedTuple):
    """The first token of each group, of the teacher's and of the student's; the last group is the end of the turn."""

    teacher_G: Places
    student_G: Places


def groups_of(teacher: Spelled, student: Spelled) -> Groups:
    """The finest groups that both allow. Both spell the same text. A token without bytes (a blank that the text has not, a part
    of a character whose bytes the next token has) goes with those that follow."""
    common = np.intersect1d(teacher.ends, student.ends)
    common = common[common > 0]
    parts = [np.searchsorted(side.ends, common, side="left") + 1 for side in (teacher, student)]
    return Groups(*(np.concatenate([[0], part]).astype(np.int64) for part in parts))
