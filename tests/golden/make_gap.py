"""Writes tests/fixtures/gap/<name>/: students of score/llama, and how far each is from it.

`far` is of another architecture, with another padding of the vocabulary and a
shorter context; `near` is the teacher with a little noise on every weight. For
each `rows*.jsonl` of score/llama an `expected*.jsonl`: a line a row, then one
for all, as `retort gap` answers them. Everything is computed in float64, from
the definitions: probabilities and their logarithms over the tokenizer's ids,
one position at a time.
"""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

import build
import vocabularies
from make_score import Score, response_ids, write_lines, write_model

TEACHER = build.FIXTURES / "score" / "llama"
OUT = build.FIXTURES / "gap"
FAR = Score(
    "far",
    "gpt2",
    vocabularies.chat_bpe,
    dict(n_embd=16, n_head=2, n_layer=1, n_positions=160),
    padding=5,
)
SUFFIXES = ("", "_ids", "_prompt", "_chat")


# The noise of `near`, as a share of each tensor's own spread.
NOISE = 0.02


def main() -> None:
    build.set_up()
    for name in ("far", "near"):
        folder = build.fresh(OUT / name)
        size = vocabularies.chat_bpe(folder)
        if name == "far":
            write_model(FAR, folder, size)
        else:
            write_near(folder)
        compare(folder, size)
    print(f"{1000 * build.megabytes(OUT):.0f} KB in {OUT}")


@torch.no_grad()
def write_near(folder: Path) -> None:
    """The teacher's weights with noise on them."""
    model = build.load(TEACHER)
    for name, tensor in sorted(model.named_parameters()):
        draw = np.random.RandomState(build.seed_of("gap", "near", name)).standard_normal(tuple(tensor.shape))
        tensor.add_(torch.from_numpy(NOISE * float(tensor.std()) * draw))
    model.save_pretrained(folder)


def compare(folder: Path, size: int) -> None:
    """Writes what is expected for every file of rows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(TEACHER).get_vocab()
    models = [build.load(path, dtype=torch.float64) for path in (TEACHER, folder)]
    for suffix in SUFFIXES:
        rows = [json.loads(line) for line in (TEACHER / f"rows{suffix}.jsonl").read_text().splitlines()]
        told = [tokens_of(models, size, *encode(tokenizer, row)) for row in rows]
        write_lines(folder / f"expected{suffix}.jsonl", [means(t) for t in told + [np.concatenate(told)]])
    build.readable(folder)


def encode(tokenizer, row) -> tuple[list[int], int]:
    """A row's ids, and how many of them are the prompt."""
    if "ids" in row:
        return row["ids"], row.get("prompt_len", 0)
    if "text" in row:
        return tokenizer(row["text"])["input_ids"], 0
    if "prompt" in row:
        prompt, answer = tokenizer(row["prompt"])["input_ids"], row["response"]
    else:
        before, answer = row["messages"][:-1], row["messages"][-1]["content"]
        text = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    return prompt + response_ids(tokenizer, answer), len(prompt)


NAMES = ("forward_kl", "reverse_kl", "jsd", "tvd", "nll_teacher", "nll_student", "top1")


@torch.no_grad()
def tokens_of(models, size: int, ids: list[int], prompt_len: int) -> np.ndarray:
    """[tokens, 7]: each of NAMES at each response token."""
    ids_bt = torch.tensor([ids])
    logits = [build.logits_of(m, ids_bt, torch.ones_like(ids_bt))[0, :, :size].numpy() for m in models]
    lines = [at(logits[0][t - 1], logits[1][t - 1], ids[t]) for t in range(max(prompt_len, 1), len(ids))]
    return np.array(lines, dtype=np.float64).reshape(-1, len(NAMES))


def at(z_p: np.ndarray, z_q: np.ndarray, token: int) -> list[float]:
    """One position."""
    # Nothing here hangs on a rounding: the best token leads.
    for z in (z_p, z_q):
        first, second = np.sort(z)[:-3:-1]
        assert first - second > 1e-4, (first, second)
    p, q = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (z_p, z_q))
    m = (p + q) / 2
    kl = lambda a, b: float(np.sum(a * np.log(a / b)))
    jsd = (kl(p, m) + kl(q, m)) / 2
    same = float(p.argmax() == q.argmax())
    return [kl(p, q), kl(q, p), jsd, float(np.abs(p - q).sum() / 2), -np.log(p[token]), -np.log(q[token]), same]


def means(told: np.ndarray) -> dict:
    """A line of the answer; no means without tokens."""
    values = told.mean(0) if len(told) else [None] * len(NAMES)
    return dict(zip(NAMES, map(lambda x: None if x is None else float(x), values))) | {"tokens": len(told)}


if __name__ == "__main__":
    main()
