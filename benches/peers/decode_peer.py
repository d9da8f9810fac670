"""What benches/decode.rs measures, done by transformers' generate: one JSON object a line in, one out."""

import time

import torch
from answering import answer_lines, model_of


def generate(ask):
    """Samples ask["new"] tokens for each prompt at temperature 1, with a dynamic cache, as by default."""
    model = model_of(ask["folder"], ask["dtype"])
    ids = torch.tensor(ask["ids"]).view(ask["rows"], -1)
    new = ask["new"]
    greedy = ask.get("greedy", False)
    how = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        start = time.perf_counter()
        out = model.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, pad_token_id=0, **how
        )
        seconds = time.perf_counter() - start
    if out.shape[1] != ids.shape[1] + new:
        raise ValueError(f"made {out.shape[1] - ids.shape[1]} tokens in place of {new}")
    return {"seconds": seconds, "ids": out[:, ids.shape[1] :].flatten().tolist() if greedy else []}


answer_lines({"generate": generate})
