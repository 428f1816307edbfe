"""What every plug-in must keep, whoever adds it: found by name, tested without knowing what it does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potstill.contracts import (
    FAMILIES,
    Candidate,
    Case,
    Check,
    Combiner,
    Compute,
    Exporter,
    Finding,
    LayerLoss,
    Loss,
    Metric,
    Plugin,
    Requests,
    Room,
    Scored,
    Task,
    Teacher,
)
from potstill.errors import JobError
from potstill.plugins import load_plugin, plugin_kinds
from potstill.types import Example, Message, Reply, Signal

BASES = {
    "tasks": Task,
    "teachers": Teacher,
    "combiners": Combiner,
    "checks": Check,
    "losses": Loss,
    "metrics": Metric,
    "exporters": Exporter,
    "compute": Compute,
}
# The least fields of the plug-ins that need more than their kind; docs/job.md says "required" for each.
LEAST: dict[tuple[str, str], dict[str, Any]] = {
    ("tasks", "classification"): {"labels": ["yes", "no"]},
    ("checks", "judge"): {"teacher": "scripted"},
    ("checks", "length"): {"max_words": 100},
    ("checks", "schema"): {"json_schema": {"type": "object"}},
    ("checks", "semantic_duplicates"): {"model": "./nowhere"},
    ("combiners", "route"): {"rules": [{"teacher": 2, "contains": "Hypothesis"}]},
    ("teachers", "huggingface"): {"model": "./nowhere"},
    **{
        ("teachers", kind): {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
        for kind in ("openai_api", "openai_batch", "openai_decisions", "anthropic_api", "anthropic_batch")
    },
}
PLUGINS = [(family, info.kind) for family in FAMILIES for info in plugin_kinds(family)]
EXAMPLE = Example("1", (Message("user", "Premise: a. Hypothesis: b."),), gold="yes")


def load(family: str, kind: str, **more: Any) -> Any:
    return load_plugin(family, {"kind": kind, **LEAST.get((family, kind), {}), **more})


def kinds(family: str) -> list[str]:
    return [kind for known, kind in PLUGINS if known == family]


def is_of_layers(kind: str) -> bool:
    return isinstance(load("losses", kind), LayerLoss)


def test_every_family_has_plug_ins() -> None:
    assert set(BASES) == set(FAMILIES) == {family for family, _ in PLUGINS}


@pytest.mark.parametrize(("family", "kind"), PLUGINS)
def test_a_plug_in_loads_from_its_least_fields_and_is_of_its_family(family: str, kind: str) -> None:
    plugin = load(family, kind)
    assert isinstance(plugin, BASES[family])
    assert isinstance(plugin, Plugin)
    assert plugin.kind == kind
    assert load_plugin(family, plugin.model_dump(mode="json")) == plugin


@pytest.mark.parametrize(("family", "kind"), PLUGINS)
def test_a_plug_in_is_frozen(family: str, kind: str) -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        load(family, kind).kind = "other"


@pytest.mark.parametrize(("family", "kind"), PLUGINS)
def test_an_unknown_key_is_refused_with_the_known_ones(family: str, kind: str) -> None:
    with pytest.raises(JobError, match=r"unknown key 'kimd': did you mean 'kind'\? Known: .*kind") as raised:
        load(family, kind, kimd=1)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_plug_in_has_a_summary_of_one_sentence(family: str) -> None:
    for info in plugin_kinds(family):
        assert 10 <= len(info.summary) <= 130, info
        assert info.summary.endswith("."), info


@pytest.mark.parametrize("kind", [kind for kind in kinds("losses") if not is_of_layers(kind)])
def test_a_loss_is_finite_differentiable_and_one_value_a_token(kind: str) -> None:
    loss = load("losses", kind)
    torch.manual_seed(0)
    cells = 2 if loss.needs == Signal.TEXT else 5
    teacher_NC = torch.log_softmax(torch.randn(3, cells, dtype=torch.float64), -1)
    if loss.needs == Signal.TEXT:
        teacher_NC = torch.tensor([[0.0, -torch.inf]] * 3, dtype=torch.float64)
    scores_NC = torch.randn(3, cells, dtype=torch.float64, requires_grad=True)
    value_N = loss.formula(torch.log_softmax(scores_NC, -1), teacher_NC)
    assert value_N.shape == (3,)
    assert torch.isfinite(value_N).all()
    (gradient_NC,) = torch.autograd.grad(value_N.sum(), scores_NC)
    assert torch.isfinite(gradient_NC).all()
    assert gradient_NC.abs().sum() > 0
    if kind != "adaptive_kl":  # it holds its weights constant: tests/losses/test_adaptive_kl.py has its gradient
        assert torch.autograd.gradcheck(lambda x: loss.formula(torch.log_softmax(x, -1), teacher_NC), (scores_NC,))


@pytest.mark.parametrize("kind", [kind for kind in kinds("losses") if not is_of_layers(kind)])
def test_a_loss_is_least_where_the_student_agrees_with_the_teacher(kind: str) -> None:
    loss = load("losses", kind)
    teacher_NC = torch.log(torch.tensor([[0.999, 0.001], [0.999, 0.001]], dtype=torch.float64))
    student_NC = torch.log(torch.tensor([[0.999, 0.001], [0.4, 0.6]], dtype=torch.float64))
    same, different = loss.formula(student_NC, teacher_NC).tolist()
    assert same < different


@pytest.mark.parametrize("kind", [kind for kind in kinds("losses") if is_of_layers(kind)])
def test_a_layer_loss_is_one_value_a_token_exact_in_its_gradient_and_blind_to_keys_that_no_one_sees(kind: str) -> None:
    loss = load("losses", kind)
    torch.manual_seed(0)
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64)
    if loss.looks_at() == ("hidden",):
        assert torch.autograd.gradcheck(lambda x: loss.formula(x, teacher), (student,))
        same, different = loss.formula(teacher, teacher), loss.formula(student, teacher)
    else:
        student_NAT = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
        hidden_NAT = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)[:, None].expand(3, 2, 4)
        teacher_NAT = torch.log_softmax(torch.randn(3, 2, 4, dtype=torch.float64), -1).masked_fill(hidden_NAT, -torch.inf)

        def value(scores_NAT: torch.Tensor, teacher_NAT: torch.Tensor) -> torch.Tensor:
            return loss.formula(torch.log_softmax(scores_NAT, -1).masked_fill(hidden_NAT, -torch.inf), teacher_NAT)

        assert torch.autograd.gradcheck(lambda x: value(x, teacher_NAT), (student_NAT,))
        different = value(student_NAT, teacher_NAT)
        same = loss.formula(teacher_NAT, teacher_NAT)
        assert different[2] == 0, "a token that sees no key"
        (gradient_NAT,) = torch.autograd.grad(different.sum(), student_NAT)
        assert gradient_NAT[2].abs().sum() == 0
        assert gradient_NAT[:2].abs().sum() > 0
    assert different.shape == (3,)
    assert same.abs().max() < 1e-9
    assert (different[:2] > 1e-3).all()


@pytest.mark.parametrize("kind", kinds("tasks"))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text() | st.from_regex(r"[`{}\[\]\"#:<>/a-z0-9\s\\-]{0,60}"), gold=st.text(min_size=1, max_size=30))
def test_a_task_reads_any_text_and_judges_it(kind: str, text: str, gold: str) -> None:
    task = load("tasks", kind)
    read = task.read(text)
    assert read is None or isinstance(read, str)
    assert task.right(text, Example("1", EXAMPLE.messages, gold=gold)) in (None, 0.0, 1.0)
    assert task.right(text, Example("1", EXAMPLE.messages)) in (None, 0.0, 1.0)


@pytest.mark.parametrize("kind", kinds("tasks"))
def test_a_task_keeps_the_users_system_prompt_and_the_last_turn(kind: str) -> None:
    example = Example("1", (Message("system", "You are Ada."), Message("user", "Premise: a. Hypothesis: b.")))
    messages = load("tasks", kind, system_prompt="Be short.").prompt(example)
    assert "You are Ada." in messages[0].content
    assert "Be short." in messages[0].content
    assert messages[-1].role == "user"
    assert set(load("tasks", kind).metrics) <= set(kinds("metrics"))


@pytest.mark.parametrize("kind", kinds("metrics"))
@pytest.mark.parametrize("task", kinds("tasks"))
def test_a_metric_takes_any_subset_of_rows(kind: str, task: str) -> None:
    metric, how = load("metrics", kind), load("tasks", task)
    rows = [Scored(EXAMPLE, text, right) for text, right in (("yes", 1.0), ("no", 0.0), ("", None))]
    for subset in (rows, rows[:1], []):
        value = metric.value(subset, how)
        assert value is None or isinstance(value, float)


@pytest.mark.parametrize("kind", kinds("checks"))
@pytest.mark.parametrize("text", ["", "   ", "yes", "\ud7ff\u0000 ?"])
def test_a_check_lets_an_answer_stay_or_says_why_not(kind: str, text: str) -> None:
    found = load("checks", kind).refuse(EXAMPLE, Reply(text), load("tasks", "nli"))
    assert found is None or (isinstance(found, Finding) and found.reason.strip())


def asked_nobody(teacher: Teacher, requests: Any) -> list[Reply]:
    raise AssertionError(f"{teacher.label} was asked {len(requests)} requests")


@pytest.mark.parametrize("kind", kinds("combiners"))
@pytest.mark.parametrize("task", kinds("tasks"))
def test_a_combiner_asks_teachers_of_the_job_and_chooses_among_their_answers(kind: str, task: str) -> None:
    combiner, how = load("combiners", kind), load("tasks", task)
    teachers = tuple(load_plugin("teachers", {"kind": "scripted", "name": name}) for name in "abc")
    assert combiner.problems(teachers, how) == []
    for example in (EXAMPLE, Example("2", (Message("user", "Hi"),))):
        asked = combiner.asks(example, teachers, how)
        assert asked
        assert set(asked) <= {0, 1, 2}
        assert len(set(asked)) == len(asked)
    failed = Reply("", "error", error="HTTP 500")
    texts = [("#### 7", "yes", "yes", "neutral"), ("yes",), ("", "\ud7ff\u0000 ?"), ()]
    cases = [
        Case(
            EXAMPLE,
            (
                *(Candidate(i % 3, i // 3, Reply(text), how.read(text)) for i, text in enumerate(some)),
                Candidate(2, 9, failed, None),
            ),
        )
        for some in texts
    ]
    choices = combiner.choose(cases, Room(how, Path(), teachers, asked_nobody))
    assert len(choices) == len(cases)
    for case, choice in zip(cases, choices, strict=True):
        assert (choice.finding is None) == bool(choice.chosen), "chosen, or a reason why not"
        assert choice.finding is None or choice.finding.reason.strip()
        assert set(map(id, choice.chosen)) <= {id(one) for one in case.candidates if one.reply.error is None}
        assert choice.agreement is None or 0 <= choice.agreement <= 1
        assert len(choice.weights) in (0, len(choice.chosen))
        assert all(0 < weight <= 1 for weight in choice.weights)
    assert combiner.choose([], Room(how, Path(), teachers, asked_nobody)) == []


@pytest.mark.parametrize("kind", kinds("exporters"))
def test_an_exporter_says_whether_it_takes_an_architecture(kind: str) -> None:
    problem = load("exporters", kind).problem("LlamaForCausalLM")
    assert problem is None or problem.strip()


@pytest.mark.parametrize("kind", kinds("teachers"))
def test_a_teacher_says_who_it_is_without_a_secret_and_what_is_wrong(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "sk-abcdefghijklmnop")
    more = {"api_key": "env:SECRET_KEY"} if kind.startswith(("openai", "anthropic")) else {}
    teacher = load("teachers", kind, **more)
    assert isinstance(teacher.gives, Signal)
    if kind != "huggingface":  # its identity is the digest of a folder
        assert "sk-abcdefghijklmnop" not in str(dict(teacher.identity()))
    assert all(isinstance(problem, str) and "\n" not in problem for problem in teacher.problems())


def test_a_teacher_asked_nothing_answers_nothing() -> None:
    async def count() -> int:
        return len([reply async for reply in load("teachers", "scripted").answers(Requests([]))])

    assert asyncio.run(count()) == 0


def test_a_strangers_file_is_a_plug_in_too(tmp_path: Path) -> None:
    documented = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    code = documented.split("```python\n")[1].split("```")[0]
    (tmp_path / "hellinger.py").write_text(code)
    loss = load_plugin("losses", {"kind": "./hellinger.py", "weight": 0.5}, tmp_path)
    teacher_NC = torch.log(torch.tensor([[0.5, 0.5]]))
    by_hand = 1 - (1 / 8) ** 0.5 - (3 / 8) ** 0.5
    assert float(loss.formula(torch.log(torch.tensor([[0.25, 0.75]])), teacher_NC)) == pytest.approx(by_hand, abs=1e-6)


def test_the_documented_combiner_chooses(tmp_path: Path) -> None:
    documented = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
    (tmp_path / "shortest.py").write_text(documented.split("```python\n")[2].split("```")[0])
    task = load_plugin("tasks", "nli")
    replies = [Reply("It is neutral."), Reply("", "error", error="HTTP 500"), Reply("neutral"), Reply("Hm")]
    case = Case(EXAMPLE, tuple(Candidate(n, 0, reply, task.read(reply.text)) for n, reply in enumerate(replies)))
    combiner = load_plugin("combiners", "./shortest.py", tmp_path)
    chosen, nothing = combiner.choose([case, Case(EXAMPLE, case.candidates[3:])], Room(task, tmp_path, (), asked_nobody))
    assert [one.reply.text for one in chosen.chosen] == ["neutral"]
    assert nothing.finding is not None
