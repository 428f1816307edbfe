"""Equal mathematical answers, in processes that may hang, die and be killed without harm to any other pair."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from potstill.errors import JobFailedError
from potstill.text.equivalence import Equivalence, comparable, stated

Workers = Callable[[], list[psutil.Process]]
HANGS = ("9^{9^{9^{9}}}", "9^{9^{9^{8}}}")


def all_workers() -> list[psutil.Process]:
    living = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "math_worker.py" in " ".join(child.cmdline())]


@pytest.fixture
def workers() -> Callable[[], list[psutil.Process]]:
    """The processes that this test has started and that are still there."""
    before = all_workers()
    return lambda: [worker for worker in all_workers() if worker not in before]


@pytest.fixture(scope="module")
def equivalence() -> Iterator[Equivalence]:
    with Equivalence(workers=2, seconds=1.0) as made:
        yield made
    assert all_workers() == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("#### 12", "12"),
        ("#### 1\n#### 2", "2"),
        (r"So \boxed{\frac{\sqrt{2}}{2}}.", r"\frac{\sqrt{2}}{2}"),
        (r"\boxed{1} or rather \boxed{2}", "2"),
        (r"\boxed{1", "1"),
        ("The answer is $x^2$, I think.", "x^2"),
        ("The answer is: 1/2.", "1/2"),
        ("First $a$.\nThen $b$ and $c$.", "c"),
        ("a\n\n7 \n", "7"),
        ("", ""),
    ],
)
def test_what_a_text_states_as_its_answer(text: str, answer: str) -> None:
    assert stated(text) == answer


@pytest.mark.parametrize(
    ("expression", "form"),
    [
        ("x = 5", "5"),
        (r"5\text{ cm}^2", "5"),
        (r"\$5", "5"),
        ("$1,234.50", "1234.50"),
        ("50%", r"50\%"),
        (r"50\%", r"50\%"),
        (r"\sin x", r"\sin x"),
        ("x+y=3", None),
        ("x = y = 3", None),
        ("2 + 2 == 4", None),
        ("x < 5", None),
        (r"x \le 5", None),
        (r"\pi \approx 3.14", None),
        ("three", None),
        ("3 1/2", None),
        ("5 apples", None),
        ("9" * 300, None),
        ("", None),
    ],
)
def test_what_may_be_compared(expression: str, form: str | None) -> None:
    assert comparable(expression) == form


@given(st.text(alphabet=st.sampled_from("0123456789.,-/#=$%\\{}boxedfracinle \n") | st.characters(), max_size=60))
def test_no_text_breaks_the_reading_of_expressions(text: str) -> None:
    found = comparable(stated(text))
    assert found is None or ("=" not in found and "<" not in found and found.strip())


@pytest.mark.parametrize(
    ("gold", "given", "equal"),
    [
        (r"\boxed{\frac{\sqrt{2}}{2}}", r"The answer is $1/\sqrt{2}$.", True),
        ("0.5", "50%", True),
        ("50%", "0.5", True),
        (r"3\frac{1}{2}", "#### 3.5", True),
        ("(x-1)(x+1)", "x^2 - 1", True),
        (r"\pi", "3.14", False),
        (r"2\sqrt{3}", r"3\sqrt{2}", False),
        ("4", "2^3", False),
        ("x = 5", "5", True),
        ("7", "7.0", True),
        ("7", "8", False),
        ("9" * 30, "9" * 29 + "8", False),
        ("x + y = 3", "x + y = 4", None),
        ("x + y = 3", "2x + y = 3", None),
        ("5", "five", None),
    ],
)
def test_expressions_are_equal_different_or_unknown(gold: str, given: str, equal: bool | None, equivalence: Equivalence) -> None:
    assert equivalence.equal([(gold, given)]) == [equal]


def test_what_hangs_costs_its_time_once_and_harms_no_other_pair(equivalence: Equivalence) -> None:
    before, pairs = equivalence.num_hung, [("2^{3}", "8"), HANGS, ("2^{5}", "32"), HANGS, ("2^{6}", "65")]
    assert equivalence.equal(pairs) == [True, None, True, None, False]
    assert equivalence.num_hung == before + 1
    assert equivalence.equal([HANGS]) == [None]
    assert equivalence.num_hung == before + 1


def test_a_killed_process_is_replaced(workers: Workers) -> None:
    with Equivalence(workers=1) as equivalence:
        assert equivalence.equal([("2^{3}", "8")]) == [True]
        (worker,) = workers()
        worker.kill()
        worker.wait(60)
        assert equivalence.equal([("2^{4}", "16"), ("2^{5}", "32")]) == [True, True]
        assert [other.pid for other in workers()] != [worker.pid]
    assert workers() == []


def test_plain_numbers_and_words_start_no_process(workers: Workers) -> None:
    equivalence = Equivalence()
    assert equivalence.equal([("5", "6"), ("5", "five"), ("x=1", "x=2"), (r"\sqrt{2}", r"\sqrt {2}")]) == [
        False,
        None,
        False,
        True,
    ]
    assert workers() == []


def test_an_equivalence_that_nobody_holds_leaves_no_process(workers: Workers) -> None:
    equivalence = Equivalence(workers=1)
    equivalence.equal([("2^{3}", "8")])
    assert len(workers()) == 1
    del equivalence
    gc.collect()
    assert workers() == []


def test_it_works_again_after_it_was_closed(workers: Workers) -> None:
    equivalence = Equivalence(workers=1)
    for power in (3, 4):
        assert equivalence.equal([(f"2^{{{power}}}", str(2**power))]) == [True]
        equivalence.close()
    assert workers() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_asked(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "asks.py"  # without a guard around its main part: the workers must not run it
    script.write_text(
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "import potstill.text.equivalence as e\n"
        "pairs = [('2^{3}', '8')]\n"
        "made = e.Equivalence(workers=1, seconds=2.0)\n"
        "made.equal(pairs)\n"
        "print(made._workers[0].process.pid, flush=True)\n"
        f"made.equal([{HANGS!r}])\n"
    )
    asking = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with asking:
        assert asking.stdout is not None
        worker = psutil.Process(int(asking.stdout.readline()))
        os.kill(asking.pid, how)
        asking.wait(60)
        assert asking.returncode != 0
    end = time.monotonic() + 60
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_math_verify_that_does_not_start_is_told(workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('half installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(JobFailedError, match=r"does not start: ImportError: half installed; .*potstill\[math\]"):
        Equivalence(workers=1).equal([("2^{3}", "8")])
    assert workers() == []
