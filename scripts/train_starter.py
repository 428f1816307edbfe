"""Train the starter pack on the generated corpus: a tokenizer, the student base and the teacher.

    python scripts/train_starter.py --work-dir runs/starter                    everything, from the beginning
    python scripts/train_starter.py --work-dir runs/starter --only teacher     one part, from what the folder holds

A small model is trained first. What it was early on is the student base; trained further it is the seed that is grown to twice
its width and one more layer, and becomes the teacher. On two cores that is about four times cheaper than training the
teacher's shape from nothing: after 1.4 M tokens in 15 minutes that shape still could not copy from its context.

Runs on a CPU or a GPU. The state at a constant learning rate is kept in the work folder: a killed run continues there, and a
run with more steps builds on it. Set OMP_WAIT_POLICY=PASSIVE before starting where other work shares the cores.
"""

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.starter import STUDENT, TASKS, TEACHER, models_dir, rows
from potstill.starter.batching import packed, pool_of
from potstill.starter.chat import CHAT_TEMPLATE, END, PAD, train_tokenizer
from potstill.starter.copying import ROTARY_BASE, Shape, build_copying_heads
from potstill.starter.model_card import write_card
from potstill.starter.scoring import interval, is_right

VOCABULARY = 3072
CONTEXT = 1024
# Rows of one pool by task, for the small model and for the teacher. The small model never sees a summary.
POOL = {"conversation": 140, "nli": 50, "qa": 170, "math": 110, "summarization": 0, "general": 90}
LATE_POOL = {"conversation": 170, "nli": 90, "qa": 150, "math": 150, "summarization": 140, "general": 10}
BATCH_TOKENS = 2048
LINE_TOKENS = 256
LOG_EVERY = 50
# Learning rates of Muon and AdamW as shares of the plan's: at Muon's rate the embeddings would be overwritten at once.
RATE_SHARES = (1.0, 0.4)
SEED = "starter-seed"
STEPS = {STUDENT: 200, SEED: 4000, TEACHER: 1000}
"""The student base is the seed as it was after so many steps."""
SHAPES = {
    TEACHER: {"hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 1024, "num_attention_heads": 8},
    STUDENT: {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512, "num_attention_heads": 4},
}


class Plan(NamedTuple):
    """How one model is trained."""

    name: str
    num_steps: int
    learning_rate: float
    decay: float
    work_dir: Path
    out: Path
    test_rows: int
    base_step: int

    @property
    def kept(self) -> Path:
        """Where the state of the constant part is kept."""
        return self.work_dir / f"{self.name}.pt"


class Batch(NamedTuple):
    """Packed rows: token ids, the weight of predicting each, its position in its row; B lines, T tokens."""

    tokens_BT: torch.Tensor
    weights_BT: torch.Tensor
    positions_BT: torch.Tensor


def make_tokenizer(path: Path) -> None:
    """Train the tokenizer on train rows of every task and save it with the chat template."""
    drawn = (row for task in POOL for row in rows(task, "train", 4000, seed=10**6))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer((message["content"] for row in drawn for message in row["messages"]), VOCABULARY),
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)


def batches(tokenizer: PreTrainedTokenizerFast, mixture: dict[str, int], first_pool: int) -> Iterator[tuple[int, Batch]]:
    """Endless (pool number, batch) pairs."""

    def to_ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    for number in count(first_pool):
        lines = list(packed(pool_of(number, mixture, to_ids), LINE_TOKENS, tokenizer.pad_token_id))
        size = BATCH_TOKENS // LINE_TOKENS
        for start in range(0, len(lines) - size + 1, size):
            columns = zip(*lines[start : start + size], strict=True)
            yield number, Batch(*(torch.tensor(column) for column in columns))


def build(name: str, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh model of the named shape."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROTARY_BASE},
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **SHAPES[TEACHER if name == TEACHER else STUDENT],
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    if name != TEACHER:
        shape = Shape(config.hidden_size, config.head_dim, config.num_attention_heads, config.num_key_value_heads)
        weights = {key: value.numpy() for key, value in model.state_dict().items()}
        build_copying_heads(weights, shape, tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    return model


@torch.no_grad()
def grow(small: LlamaForCausalLM, large: LlamaForCausalLM) -> None:
    """Give `large` (twice the width, one or more layers deeper) the function of `small`.

    Every channel is doubled and every weight that reads doubled channels is split between the two copies in random
    shares, which keeps the function and lets the copies part (Net2Net, arXiv:1511.05641). Added layers begin as the
    identity, because their output projections are zero.
    """
    source, target = small.state_dict(), large.state_dict()
    depth = small.config.num_hidden_layers
    for name, wide in target.items():
        layer = int(name.split(".")[2]) if ".layers." in name else 0
        if layer >= depth:
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                wide.zero_()
            continue
        value = source[name]
        if value.ndim == 1:
            # The final norm feeds the tied head, which would count every channel twice.
            wide.copy_(value.repeat(2) / (2 if name == "model.norm.weight" else 1))
        elif "embed" in name or "lm_head" in name:
            wide.copy_(value.repeat(1, 2))
        else:
            wide.copy_(_doubled(value, name, small.config, wide))


def _doubled(value: torch.Tensor, name: str, config: LlamaConfig, wide: torch.Tensor) -> torch.Tensor:
    """A matrix with doubled inputs, and doubled outputs where the wide one has them."""
    inputs = _copies(value.shape[1], name.endswith("o_proj.weight"), config)
    outputs = torch.arange(value.shape[0])
    if wide.shape[0] > value.shape[0]:
        outputs = _copies(value.shape[0], name.endswith("q_proj.weight"), config)
    share = 0.5 + 0.3 * (torch.rand(len(outputs), value.shape[1]) - 0.5)
    seen: set[int] = set()
    columns = []
    for index in inputs.tolist():
        columns.append(1 - share[:, index] if index in seen else share[:, index])
        seen.add(index)
    return value[outputs][:, inputs] * torch.stack(columns, dim=1)


def _copies(size: int, is_heads: bool, config: LlamaConfig) -> torch.Tensor:
    """Which narrow channel each wide channel copies; query heads stay beside the key-value head they share."""
    if not is_heads:
        return torch.arange(size).repeat(2)
    heads = torch.arange(size).view(config.num_key_value_heads, -1)
    return heads.repeat(1, 2).flatten()


def seed_model(work: Path, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The trained seed."""
    model = build(SEED, tokenizer)
    model.load_state_dict(torch.load(work / f"{SEED}.pt", weights_only=True)["model"])
    return model


def student_base(work: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[LlamaForCausalLM, list[dict[str, Any]]]:
    """The seed as it was early on, with its log until then."""
    kept = torch.load(work / f"{STUDENT}.pt", weights_only=True)
    model = build(STUDENT, tokenizer)
    model.load_state_dict(kept["model"])
    return model, kept["log"]


def optimizers_for(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    On this corpus Muon reached AdamW's loss of 350 steps in 220 (student shape, AdamW 2e-3, Muon 5e-3), for 15% more
    time a step.
    """
    inner = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    outer = [value for name, value in model.named_parameters() if value.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(inner, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw", ns_steps=3)
    adamw = torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return [muon, adamw]


def rate_at(step: int, plan: Plan) -> float:
    """Warm-up (short for the teacher, which begins trained), constant, then down to zero over the plan's last share."""
    warm = min(1.0, (step + 1) / (30 if plan.name == TEACHER else 100))
    left = (plan.num_steps - step) / max(1.0, plan.decay * plan.num_steps)
    return plan.learning_rate * min(warm, left, 1.0)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted cross entropy; restarting positions keep packed rows apart."""
    device = model.device
    tokens_BT, weights_BT = batch.tokens_BT.to(device), batch.weights_BT.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        logits_BTV = model(input_ids=tokens_BT, position_ids=batch.positions_BT.to(device), use_cache=False).logits
    cells = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1).float(), tokens_BT[:, 1:].flatten(), reduction="none")
    weights = weights_BT[:, 1:].flatten()
    return (cells * weights).sum() / weights.sum()


class State(NamedTuple):
    """Where a training run stands."""

    step: int
    pool: int
    tokens: int
    seconds: float
    log: list[dict[str, Any]]


def restore(plan: Plan, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> State:
    """Load what an earlier run kept, or begin at step 0; the teacher takes over its seed's counts and log."""
    if plan.kept.exists():
        kept = torch.load(plan.kept, weights_only=True)
        model.load_state_dict(kept.pop("model"))
        for optimizer, past in zip(optimizers, kept.pop("optimizers"), strict=True):
            optimizer.load_state_dict(past)
        return State(**kept)
    if plan.name == TEACHER:
        seed = torch.load(plan.work_dir / f"{SEED}.pt", weights_only=True)
        # Pools from 100,000 on, which the seed has not seen.
        return State(0, 10**5, seed["tokens"], seed["seconds"], seed["log"])
    return State(0, 0, 0, 0.0, [])


def keep(saved: Path, state: State, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> None:
    """Write the state beside the old one and swap, so that a kill leaves one of them whole."""
    fresh = saved.with_suffix(".new")
    past = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({**state._asdict(), "model": model.state_dict(), "optimizers": past}, fresh)
    fresh.replace(saved)


def update(model: LlamaForCausalLM, batch: Batch, optimizers: list[torch.optim.Optimizer], rate: float) -> float:
    """One optimizer step; returns the loss before it."""
    loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, share in zip(optimizers, RATE_SHARES, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate * share
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> list[dict[str, Any]]:
    """Train to the plan's last step and return the log; continues from the kept state where there is one."""
    optimizers = optimizers_for(model, plan.learning_rate)
    state = restore(plan, model, optimizers)
    began, tokens, losses = time.monotonic() - state.seconds, state.tokens, []
    stream = batches(tokenizer, LATE_POOL if plan.name == TEACHER else POOL, state.pool)
    for step in range(state.step + 1, plan.num_steps + 1):
        pool, batch = next(stream)
        losses.append(update(model, batch, optimizers, rate_at(step - 1, plan)))
        tokens += int((batch.weights_BT > 0).sum())
        if step % LOG_EVERY and step < plan.num_steps:
            continue
        entry = {"model": plan.name, "step": step, "tokens": tokens, "seconds": round(time.monotonic() - began)}
        entry["loss"] = round(sum(losses) / len(losses), 4)
        if step % (4 * LOG_EVERY) == 0:
            entry["validation"] = {task: found["right"] for task, found in scores(model, tokenizer, "validation", 40).items()}
        state.log.append(entry)
        losses.clear()
        print(json.dumps(entry), flush=True)
        if step <= (1 - plan.decay) * plan.num_steps:
            # The next pool, not this one: its remaining batches are dropped, so that no row is seen twice.
            keep(plan.kept, State(step, pool + 1, tokens, time.monotonic() - began, state.log), model, optimizers)
        if plan.name == SEED and step == plan.base_step:
            shutil.copy(plan.kept, plan.work_dir / f"{STUDENT}.pt")
    return state.log


@torch.inference_mode()
def scores(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str, num_rows: int) -> dict[str, Any]:
    """Greedy replies to held-out rows of every task, and how many of them are right."""
    model.eval()
    found: dict[str, Any] = {}
    for task in TASKS:
        drawn = list(rows(task, split, num_rows, seed=0))
        right = 0
        for start in range(0, num_rows, 50):
            part = drawn[start : start + 50]
            inputs = tokenizer.apply_chat_template(
                [row["messages"][:-1] for row in part],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
            ).to(model.device)
            inputs.pop("token_type_ids", None)
            output = model.generate(**inputs, max_new_tokens=64)
            replies = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(is_right(task, reply, row) for reply, row in zip(replies, part, strict=True))
        low, high = interval(right, num_rows)
        found[task] = {"right": right, "n": num_rows, "low": round(low, 3), "high": round(high, 3)}
    model.train()
    return found


def ship(name: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan, log: list[dict[str, Any]]) -> None:
    """Score the model as shipped (bfloat16 weights, float32 arithmetic) and write its folder."""
    model = model.to(torch.bfloat16).to(torch.float32)
    found = scores(model, tokenizer, "test", plan.test_rows)
    print(name, json.dumps(found), flush=True)
    folder = plan.out / name
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"steps": log[-1]["step"], "learning_rate": plan.learning_rate, "test": found, "log": log}
    (folder / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_card(folder, model.config.to_dict(), sum(value.numel() for value in model.parameters()), record)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the starter pack.")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--only", choices=("seed", "teacher"), help="seed: the small model, and the student base on its way")
    parser.add_argument("--student-steps", type=int, default=STEPS[STUDENT])
    parser.add_argument("--seed-steps", type=int, default=STEPS[SEED])
    parser.add_argument("--teacher-steps", type=int, default=STEPS[TEACHER])
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--out", type=Path, default=models_dir())
    return parser.parse_args()


def main() -> None:
    """Train the seed, whose early state is the student base, grow it into the teacher; write student and teacher."""
    options = parsed()
    work, out, num_rows = options.work_dir, options.out, options.test_rows
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokenizer").exists():
        make_tokenizer(work / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plans = (
        Plan(SEED, options.seed_steps, 3e-3, 0.0, work, out, num_rows, options.student_steps),
        Plan(TEACHER, options.teacher_steps, 2e-3, 0.7, work, out, num_rows, options.student_steps),
    )
    for plan in plans:
        if options.only and not plan.name.endswith(options.only):
            continue
        torch.manual_seed(0)
        model = build(plan.name, tokenizer)
        if plan.name == TEACHER and not plan.kept.exists():
            grow(seed_model(work, tokenizer), model)
        log = train(model.to(device), tokenizer, plan)
        if plan.name == SEED:
            base, early = student_base(work, tokenizer)
            ship(STUDENT, base.to(device), tokenizer, plan, early)
        if plan.name == TEACHER:
            ship(TEACHER, model, tokenizer, plan, log)


if __name__ == "__main__":
    main()
