"""Writes tests/fixtures/updates/: five updates by torch, for SFT, KD and MiniMA's blend, from given rows.

The student is fixtures/score/llama, with 352 rows for 320 tokens; losses are over the 320. `teacher.safetensors` has a
teacher of another width with 384 rows. `rows.jsonl` has the rows, every update takes them all. `golden.safetensors`
has each weight after the last update, `sft.NAME` and `kd.NAME`, and the losses of the updates.

The loss is the plain form: whole logits, log_softmax, a mean over all response tokens of the update.
"""

import json

import torch
from torch.nn.functional import kl_div, log_softmax, nll_loss
from transformers import AutoModelForCausalLM

import build

OUT = build.FIXTURES / "updates"
VOCABULARY = 320
STEPS, LR = 5, 2e-3
TEACHER = dict(hidden_size=24, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2)
TEACHER |= dict(num_hidden_layers=2, max_position_embeddings=512, rms_norm_eps=1e-5, vocab_size=384)


def loss_of(student, teacher, rows, ratio):
    """The mean over all response tokens, row by row, without padding."""
    total, count = 0.0, 0
    for ids, prompt_len in rows:
        batch = torch.tensor([ids])
        at = slice(prompt_len - 1, len(ids) - 1)
        log_q = log_softmax(student(batch).logits[0, at, :VOCABULARY], -1)
        targets = batch[0, prompt_len:]
        loss = (1 - ratio) * nll_loss(log_q, targets, reduction="sum")
        if ratio:
            with torch.no_grad():
                log_p = log_softmax(teacher(batch).logits[0, at, :VOCABULARY], -1)
            loss = loss + ratio * kl_div(log_q, log_p, reduction="sum", log_target=True)
        total, count = total + loss, count + len(targets)
    return total / count


def train(teacher, rows, ratio):
    student = AutoModelForCausalLM.from_pretrained(
        build.FIXTURES / "score/llama", dtype=torch.float32, attn_implementation="eager"
    ).train()
    decays = [p for p in student.parameters() if p.dim() > 1]
    others = [p for p in student.parameters() if p.dim() == 1]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), eps=1e-8)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = loss_of(student, teacher, rows, ratio)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {name: p.detach() for name, p in student.named_parameters()}, losses


def main():
    build.set_up()
    folder = build.fresh(OUT)
    teacher = build.new_model("llama", TEACHER, build.seed_of("updates", "teacher"))
    teacher.save_pretrained(folder / "teacher")
    lengths = (17, 8, 3, 30, 12, 2, 21)
    ids = build.random_rows(build.seed_of("updates", "rows"), VOCABULARY, lengths)
    rows = list(zip(ids, (5, 7, 1, 12, 11, 1, 2)))
    text = [json.dumps({"ids": ids, "prompt_len": prompt_len}) + "\n" for ids, prompt_len in rows]
    (folder / "rows.jsonl").write_text("".join(text))
    out = {}
    for name, ratio in (("sft", 0.0), ("kd", 0.5)):
        weights, losses = train(teacher, rows, ratio)
        out |= {f"{name}.{key}": value for key, value in weights.items()}
        out[f"{name}:losses"] = torch.tensor(losses, dtype=torch.float32)
    build.write_tensors(folder / "golden.safetensors", out)
    build.readable(folder)
    print(f"{build.megabytes(OUT):.2f} MB in {OUT}")


if __name__ == "__main__":
    main()
