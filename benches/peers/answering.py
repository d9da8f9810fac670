"""A peer process: answers one line of JSON to each line of JSON, and holds the last model it loaded."""

import gc
import json
import os
import resource
import sys
import time

# Whatever a library prints must not end up among the answers.
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

import torch  # noqa: E402
import transformers  # noqa: E402

transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()
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


def versions(_):
    python = ".".join(map(str, sys.version_info[:3]))
    return {"versions": f"transformers {transformers.__version__}, torch {torch.__version__}, Python {python}"}


def peak(_):
    """The most memory this process ever held."""
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def answer_lines(work):
    """Does what is asked by name until the input ends."""
    work = {"versions": versions, "peak": peak, **work}
    for line in sys.stdin:
        try:
            ask = json.loads(line)
            if "threads" in ask:
                torch.set_num_threads(ask["threads"])
            answer = work[ask["do"]](ask)
        except Exception as e:  # the bench stops and shows it
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=answers, flush=True)
