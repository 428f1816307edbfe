"""Train the starter pack: a tokenizer, the teacher and the student base, on the generated corpus.

    python scripts/train_starter.py --work-dir runs/starter              everything, from the beginning
    python scripts/train_starter.py --work-dir runs/starter --only student --student-steps 900

Runs on a CPU or a GPU. The learning rate is warmed up, then constant, then falls to zero over the last fifth. The state of
the constant part is kept in the work folder: a killed run continues there, and a run with more steps builds on it.
Set OMP_WAIT_POLICY=PASSIVE before starting where other work shares the cores.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.starter import STUDENT, TASKS, TEACHER, models_dir, rows
from potstill.starter.chat import CHAT_TEMPLATE, END, PAD, SPECIAL_TOKENS
from potstill.starter.model_card import write_card
from potstill.starter.scoring import interval, is_right

VOCABULARY = 3072
CONTEXT = 1024
# Rows of one pool by task. Look-ups dominate, because they need the most examples to be learned at all.
POOL = {"conversation": 150, "nli": 70, "qa": 100, "math": 130, "summarization": 60, "general": 90}
SHAPES = {
    TEACHER: {"hidden_size": 512, "num_hidden_layers": 4, "intermediate_size": 1024, "num_attention_heads": 8},
    STUDENT: {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 512, "num_attention_heads": 4},
}


class Plan(NamedTuple):
    """How one model is trained."""

    name: str
    num_steps: int
    learning_rate: float
    batch_tokens: int
    work_dir: Path


class Batch(NamedTuple):
    """Token ids and the weight of predicting each of them, right-padded; B rows, T tokens."""

    tokens_BT: torch.Tensor  # noqa: N815
    weights_BT: torch.Tensor  # noqa: N815


def train_tokenizer(path: Path) -> None:
    """Train the byte-level BPE tokenizer on train rows of every task."""
    tokenizer = Tokenizer(models.BPE())
    # Trained with one digit a piece, so that no merge joins two digits. Used with the plain GPT-2 pattern, which every
    # runtime knows: with these merges both patterns give the same tokens.
    one_digit = Regex(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(one_digit, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path)


def _texts() -> Iterator[str]:
    for task in POOL:
        for row in rows(task, "train", 4000, seed=10**6):
            yield from (message["content"] for message in row["messages"])


def encode(
    tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], prompt_weight: float
) -> tuple[list[int], list[float]]:
    """Token ids of a row and their weights: 1 in the assistant's turns, `prompt_weight` elsewhere."""
    ids: list[int] = []
    weights: list[float] = []
    for message in row["messages"]:
        head = tokenizer.convert_tokens_to_ids(f"<|{message['role']}|>")
        body = tokenizer.encode(message["content"] + END, add_special_tokens=False)
        ids += [head, *body]
        weight = 1.0 if message["role"] == "assistant" else prompt_weight
        weights += [0.0, *[weight] * len(body)]
    return ids[:CONTEXT], weights[:CONTEXT]


def batches(tokenizer: PreTrainedTokenizerFast, batch_tokens: int, first_pool: int) -> Iterator[tuple[int, Batch]]:
    """Endless (pool number, batch) pairs; rows of a like length share a batch, so little is padded."""
    pad = tokenizer.convert_tokens_to_ids(PAD)
    pool = first_pool
    while True:
        drawn = [row for task, number in POOL.items() for row in rows(task, "train", number, seed=pool)]
        encoded = sorted((encode(tokenizer, row, prompt_weight=0.1) for row in drawn), key=lambda pair: len(pair[0]))
        cut: list[list[tuple[list[int], list[float]]]] = [[]]
        for pair in encoded:
            if (len(cut[-1]) + 1) * len(pair[0]) > batch_tokens:
                cut.append([])
            cut[-1].append(pair)
        Random(pool).shuffle(cut)
        for part in cut:
            width = max(len(ids) for ids, _ in part)
            tokens = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in part])
            weights = torch.tensor([weight + [0.0] * (width - len(weight)) for _, weight in part])
            yield pool, Batch(tokens, weights)
        pool += 1


def build(name: str, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh model of the named shape."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        **SHAPES[name],
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = False
    return model


def optimizers_for(model: LlamaForCausalLM, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    On this corpus Muon reached AdamW's loss of 350 steps in 220 (student shape, AdamW 2e-3, Muon 5e-3), for 15% more
    time a step.
    """
    inner = [value for name, value in model.named_parameters() if value.ndim == 2 and "embed" not in name]
    outer = [value for name, value in model.named_parameters() if value.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(inner, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    return [muon, adamw]


def rate_at(step: int, plan: Plan) -> float:
    """Warm-up over 100 steps, constant, then down to zero over the last fifth."""
    warm = min(1.0, (step + 1) / 100)
    left = (plan.num_steps - step) / (0.2 * plan.num_steps)
    return plan.learning_rate * min(warm, left, 1.0)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted cross entropy; right padding needs no mask under causal attention."""
    device = model.device
    tokens_BT, weights_BT = batch.tokens_BT.to(device), batch.weights_BT.to(device)
    with torch.autocast(device.type, torch.bfloat16):
        logits_BTV = model(input_ids=tokens_BT).logits
    cells = functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), tokens_BT[:, 1:].flatten(), reduction="none"
    )
    weights = weights_BT[:, 1:].flatten()
    return (cells * weights).sum() / weights.sum()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> list[dict[str, Any]]:
    """Train to the plan's last step and return the log; continues from the saved state where there is one."""
    optimizers = optimizers_for(model, plan.learning_rate)
    saved = plan.work_dir / f"{plan.name}.pt"
    state: dict[str, Any] = {"step": 0, "pool": 0, "tokens": 0, "seconds": 0.0, "log": []}
    if saved.exists():
        loaded = torch.load(saved, weights_only=True)
        model.load_state_dict(loaded.pop("model"))
        for optimizer, past in zip(optimizers, loaded.pop("optimizers"), strict=True):
            optimizer.load_state_dict(past)
        state = loaded
    began, running = time.monotonic() - state["seconds"], 0.0
    stream = batches(tokenizer, plan.batch_tokens, state["pool"])
    for step in range(state["step"], plan.num_steps):
        state["pool"], batch = next(stream)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(step, plan)
            optimizer.step()
            optimizer.zero_grad()
        running = loss.item() if step == state["step"] else 0.98 * running + 0.02 * loss.item()
        state["tokens"] += int((batch.weights_BT > 0).sum())
        if (step + 1) % 50 == 0 or step + 1 == plan.num_steps:
            state["seconds"] = time.monotonic() - began
            entry = {
                "step": step + 1,
                "tokens": state["tokens"],
                "seconds": round(state["seconds"]),
                "loss": round(running, 4),
            }
            if (step + 1) % 300 == 0:
                entry["validation"] = {
                    task: score["right"] for task, score in scores(model, tokenizer, "validation", 40).items()
                }
            state["log"].append(entry)
            print(json.dumps({"model": plan.name, **entry}), flush=True)
            if step + 1 <= 0.8 * plan.num_steps:
                kept = {**state, "step": step + 1, "pool": state["pool"] + 1}
                past = [optimizer.state_dict() for optimizer in optimizers]
                torch.save({**kept, "model": model.state_dict(), "optimizers": past}, saved)
    return list(state["log"])


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


def main() -> None:
    """Train what is asked for and write it into the package."""
    parser = argparse.ArgumentParser(description="Train the starter pack.")
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--only", choices=("tokenizer", "teacher", "student"))
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--student-steps", type=int, default=1200)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--out", type=Path, default=models_dir())
    options = parser.parse_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    tokenizer_path = options.work_dir / "tokenizer"
    if not tokenizer_path.exists():
        train_tokenizer(tokenizer_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plans = {
        "teacher": Plan(TEACHER, options.teacher_steps, options.learning_rate or 3e-3, 4096, options.work_dir),
        "student": Plan(STUDENT, options.student_steps, options.learning_rate or 5e-3, 2048, options.work_dir),
    }
    for role, plan in plans.items():
        if options.only not in (None, role):
            continue
        torch.manual_seed(0)
        model = build(plan.name, tokenizer).to(device)
        log = train(model, tokenizer, plan)
        # Scored as shipped: in bfloat16 weights, computed in float32.
        model = model.to(torch.bfloat16).to(torch.float32)
        found = scores(model, tokenizer, "test", options.test_rows)
        print(plan.name, json.dumps(found), flush=True)
        folder = options.out / plan.name
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record = {"plan": {"steps": plan.num_steps, "learning_rate": plan.learning_rate}, "test": found, "log": log}
        (folder / "training_log.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_card(folder, model.config.to_dict(), sum(p.numel() for p in model.parameters()), record)


if __name__ == "__main__":
    main()
