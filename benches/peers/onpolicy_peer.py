"""What benches/onpolicy.rs measures, done by TRL's DistillationTrainer: one JSON object a line in, one out.

Its own loop runs in a thread and waits before each update until it is asked for one. Reverse KL (beta = 1) on the
student's own completions; no checkpoints, no reports, no recomputed blocks. In bfloat16 as its Trainer does that: the
student's weights in float32 and autocast, the teacher's in bfloat16.
"""

import json
import threading
import time

import torch
from answering import answer_lines, load
from datasets import Dataset
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import DistillationConfig, DistillationTrainer
import trl

work = {}


class Gate(TrainerCallback):
    """Lets the trainer through one update at a time."""

    def __init__(self):
        self.asked, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.threads = 1

    def on_step_begin(self, args, state, control, **_):
        self.asked.acquire()
        torch.set_num_threads(self.threads)
        control.should_training_stop = self.threads == 0

    def on_step_end(self, args, state, control, **_):
        self.ended = time.perf_counter()
        if self.threads == 0:
            control.should_training_stop = True

    def on_log(self, args, state, control, logs=None, **_):
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])
            self.done.release()


def prepare(ask):
    student, teacher = load(ask["student"], "float32")[0], load(ask["teacher"], ask["dtype"])[0]
    # No other word begins with t0: a special token would be cut out of it.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=ask["teacher"] + "/tokenizer.json", eos_token="t0", pad_token="t0", padding_side="left"
    )
    rows = [json.loads(line) for line in open(ask["rows"])]
    prompts = [" ".join(f"t{id}" for id in row["ids"][: row["prompt_len"]]) for row in rows]
    assert all(len(tokenizer(p)["input_ids"]) == row["prompt_len"] for p, row in zip(prompts, rows))
    gate = Gate()
    config = DistillationConfig(
        output_dir=ask["out"], use_cpu=True, bf16=ask["dtype"] == "bfloat16", max_steps=1000, beta=1.0, temperature=1.0,
        per_device_train_batch_size=len(rows), gradient_accumulation_steps=1, gradient_checkpointing=False,
        learning_rate=1e-5, lr_scheduler_type="constant", adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0,
        top_k=0, top_p=1.0, max_completion_length=ask["new"], logging_steps=1, save_strategy="no", report_to="none",
        disable_tqdm=True, optim="adamw_torch_fused", dataloader_num_workers=0,
    )
    trainer = DistillationTrainer(
        model=student, teacher_model=teacher, args=config, processing_class=tokenizer, callbacks=[gate],
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    failed = {}

    def run():
        try:
            trainer.train()
        except Exception as e:  # shown by the next answer
            failed["error"] = e
            gate.done.release()

    threading.Thread(target=run, daemon=True).start()
    work.update(key=(ask["student"], ask["dtype"]), gate=gate, failed=failed)


def update(ask):
    if work.get("key") != (ask["student"], ask["dtype"]):
        prepare(ask)
    gate = work["gate"]
    gate.threads = ask["threads"]
    start = time.perf_counter()
    gate.asked.release()
    gate.done.acquire()
    if work["failed"]:
        raise work["failed"]["error"]
    return {"seconds": gate.ended - start, "loss": gate.loss}


def its_version(_):
    return {"versions": f"TRL {trl.__version__}, torch {torch.__version__}"}


answer_lines({"update": update, "versions": its_version})
