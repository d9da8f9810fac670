"""What benches/ground.rs measures, done by transformers: one JSON object a line in, one out."""

import gc
import json
import os
import sys
import time

# Whatever a library prints must not end up among the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.disable_progress_bar()
PROBES = 16
held = {"key": None, "model": None}


def load(folder, dtype):
    """from_pretrained with its defaults."""
    start = time.perf_counter()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model, time.perf_counter() - start


def forget():
    held.update(key=None, model=None)
    gc.collect()


def model_of(folder, dtype):
    if held["key"] != (folder, dtype):
        forget()
        held.update(key=(folder, dtype), model=load(folder, dtype)[0].eval())
    return held["model"]


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


def versions():
    python = ".".join(map(str, sys.version_info[:3]))
    return f"transformers {transformers.__version__}, torch {torch.__version__}, Python {python}"


def do(ask):
    if ask["do"] == "versions":
        return {"versions": versions()}
    torch.set_num_threads(ask["threads"])
    if ask["do"] == "load":
        forget()
        return {"seconds": load(ask["folder"], ask["dtype"])[1]}
    if ask["do"] == "forward":
        return forward(ask)
    raise ValueError(f"asked to do {ask['do']!r}")


for line in sys.stdin:
    try:
        answer = do(json.loads(line))
    except Exception as e:  # the bench stops and shows it
        answer = {"error": f"{type(e).__name__}: {e}"}
    print(json.dumps(answer), file=answers, flush=True)
