"""What benches/train.rs measures, done by transformers and torch: one JSON object a line in, one out.

As transformers' Trainer does it: weights in float32, autocast to bfloat16 where asked, labels of -100 at the prompt,
gradients clipped, torch's fused AdamW. KD adds the forward KL to the teacher's logits at the response's tokens.
"""

import json
import time

import torch
from answering import answer_lines, forget, load
from torch.nn.functional import cross_entropy, kl_div, log_softmax

work = {}


def prepare(ask):
    work.clear()
    forget()
    student = load(ask["folder"], "float32")[0].train()
    teacher = load(ask["folder"], "bfloat16" if ask["bf16"] else "float32")[0].eval() if ask["policy"] == "kd" else None
    decays = [p for p in student.parameters() if p.dim() > 1]
    others = [p for p in student.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays}, {"params": others}], lr=1e-5, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    rows = [json.loads(line) for line in open(ask["rows"])]
    ids = torch.tensor([row["ids"] for row in rows])
    labels = ids.clone()
    for label, row in zip(labels, rows):
        label[: row["prompt_len"]] = -100
    work.update(key=(ask["folder"], ask["policy"]), student=student, teacher=teacher, optimizer=optimizer)
    work.update(ids=ids, labels=labels)


def update(ask):
    if work.get("key") != (ask["folder"], ask["policy"]):
        prepare(ask)
    student, teacher, optimizer = work["student"], work["teacher"], work["optimizer"]
    start = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=ask["bf16"]):
        logits = student(input_ids=work["ids"], use_cache=False).logits
    logits, targets = logits[:, :-1].float(), work["labels"][:, 1:]
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
    if teacher is not None:
        with torch.inference_mode():
            said = teacher(input_ids=work["ids"], use_cache=False).logits[:, :-1].float()
        kept = targets != -100
        log_p, log_q = log_softmax(said[kept], -1), log_softmax(logits[kept], -1)
        loss = 0.5 * loss + 0.5 * kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()
    return {"seconds": time.perf_counter() - start, "loss": loss.item()}


def forgotten(_):
    work.clear()
    forget()
    return {}


answer_lines({"update": update, "forget": forgotten})
