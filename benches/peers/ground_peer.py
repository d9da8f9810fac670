"""What benches/ground.rs measures, done by transformers: one JSON object a line in, one out."""

import time

import torch
from answering import answer_lines, forget, load, model_of

PROBES = 16


def load_anew(ask):
    forget()
    return {"seconds": load(ask["folder"], ask["dtype"])[1]}


def forward(ask):
    model = model_of(ask["folder"], ask["dtype"])
    ids = torch.tensor(ask["ids"]).view(ask["rows"], -1)
    keep = 0 if ask["all"] else 1
    with torch.inference_mode():
        start = time.perf_counter()
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
        seconds = time.perf_counter() - start
    answer = {"seconds": seconds}
    if ask["compare"]:
        every = -(-logits.shape[-1] // PROBES)
        answer["every"] = every
        answer["probes"] = logits[..., ::every].double().flatten().tolist()
        answer["argmax"] = logits.argmax(-1).flatten().tolist()
    return answer


answer_lines({"load": load_anew, "forward": forward})
