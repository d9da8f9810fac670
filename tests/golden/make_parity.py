"""Writes tests/fixtures/parity/<case>/: a model and what transformers makes of it.

Run with no arguments for every case, or with the names of some.
"""

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig

import build
from cases import CASES, Case
from spelling import v4_config

OUT = build.FIXTURES / "parity"
PLAIN_LENGTHS = (11, 11)
PADDED_LENGTHS = (13, 7, 1)
PROMPT_LENGTHS = (9, 5, 2)
NEW_TOKENS = 16
# Greedy is no coin flip: the best logit leads by this much at every step.
MARGIN = 5e-3
SAME = 1e-5


def main() -> None:
    build.set_up()
    wanted = sys.argv[1:]
    for case in CASES:
        if not wanted or case.name in wanted:
            make(case)
    print(f"{build.megabytes(OUT):.2f} MB in {OUT}")


def make(case: Case) -> None:
    """One folder: model, configs, goldens."""
    folder = build.fresh(OUT / case.name)
    model, greedy = choose_model(case)
    model.save_pretrained(folder)
    model = build.load(folder)
    write_v4(case, folder, model)
    half = build.load(folder, torch.bfloat16)
    golden = {"pad_id": torch.tensor([case.pad_id])} | greedy
    golden |= padded_goldens(case, model, half)
    golden |= gradient_goldens(case, folder, model, half)
    check_every_weight_shows(model, golden)
    build.write_tensors(folder / "golden.safetensors", golden)
    build.readable(folder)
    report(case, model, golden, folder)


def rows(case: Case, what: str, lengths) -> list[list[int]]:
    """Random rows without the pad id, whose embedding has no gradient."""
    seed = build.seed_of(case.name, what)
    return build.random_rows(seed, case.config["vocab_size"], lengths, avoid=(case.pad_id,))


# Logits ----------------------------------------------------------------------


def padded_goldens(case: Case, model, half) -> dict:
    """`{pad}.*` for rows of one length, and padded on either side."""
    out = {}
    for pad, lengths in (("none", PLAIN_LENGTHS), ("right", PADDED_LENGTHS), ("left", PADDED_LENGTHS)):
        batch = rows(case, "plain" if pad == "none" else "padded", lengths)
        ids, mask = build.pad_rows(batch, case.pad_id, pad)
        logits = build.golden_logits(model, ids, mask)
        check_rows_alone(model, batch, logits, mask)
        out[f"{pad}.ids"] = ids
        out[f"{pad}.lengths"] = torch.tensor(lengths)
        out[f"{pad}.logits"] = logits
        out[f"{pad}.logits_bf16"] = build.golden_logits(half, ids, mask)
    return out


def check_rows_alone(model, batch, logits, mask) -> None:
    """Padding must not change a row, nor the kind of attention kernel."""
    for row, got, real in zip(batch, logits, mask.bool()):
        ids, ones = build.pad_rows([row], 0, "right")
        for kernel in ("eager", "sdpa"):
            model.set_attn_implementation(kernel)
            alone = build.golden_logits(model, ids, ones)[0]
            worst = (alone - got[real]).abs().max().item()
            assert worst < SAME, (kernel, len(row), worst)
        model.set_attn_implementation("eager")


def gradient_goldens(case: Case, folder: Path, model, half) -> dict:
    """The loss of the right-padded rows and its gradients, by saved name."""
    ids, mask = build.pad_rows(rows(case, "padded", PADDED_LENGTHS), case.pad_id, "right")
    names = build.saved_names(model, folder)
    loss, grads = build.gradients(model, ids, mask)
    loss_half, grads_half = build.gradients(half, ids, mask)
    for name, grad in grads.items():
        assert is_idle(model, name) or grad.abs().max() > 1e-3, name
    out = {"right.loss": loss, "right.loss_bf16": loss_half}
    out |= {f"grad.{names[k]}": v for k, v in grads.items()}
    out |= {f"grad_bf16.{names[k]}": v for k, v in grads_half.items()}
    return out


def is_idle(model, name: str) -> bool:
    """A key's bias without rotation shifts all scores of a query alike, so
    softmax drops it. (GPT-2's is a third of `c_attn.bias`.)"""
    return model.config.model_type == "opt" and name.endswith("k_proj.bias")


@torch.no_grad()
def check_every_weight_shows(model, golden: dict) -> None:
    """A norm weight taken for ones, or any other tensor for zeros, is seen."""
    ids, logits = golden["none.ids"], golden["none.logits"]
    for name, tensor in model.named_parameters():
        kept = tensor.clone()
        is_norm = ("norm" in name or "ln_" in name) and name.endswith("weight")
        tensor.fill_(1.0 if is_norm else 0.0)
        moved = (build.golden_logits(model, ids, torch.ones_like(ids)) - logits).abs().max()
        tensor.copy_(kept)
        assert moved > 0.1 or is_idle(model, name), (name, moved)


# Greedy ----------------------------------------------------------------------


def choose_model(case: Case):
    """The first seed whose greedy continuations are clear and not dull."""
    for attempt in range(500):
        seed = build.seed_of(case.name, "weights", attempt)
        model = build.new_model(case.model_type, case.config, seed)
        prompts = rows(case, "prompts", PROMPT_LENGTHS)
        ids, mask = build.pad_rows(prompts, case.pad_id, "left")
        new = continue_greedily(case, model, ids, mask)
        if is_clear(case, model, prompts, new):
            lengths = torch.tensor(PROMPT_LENGTHS)
            return model, {"greedy.prompt_ids": ids, "greedy.prompt_lengths": lengths, "greedy.ids": new}
    raise SystemExit(f"{case.name}: no seed gives clear greedy continuations")


def continue_greedily(case: Case, model, ids, mask):
    """transformers' generate, with its cache, EOS switched off: [B, 16]."""
    model.generation_config.eos_token_id = None
    full = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=case.pad_id,
    )
    model.generation_config.eos_token_id = case.eos_id
    return full[:, ids.shape[1] :]


@torch.no_grad()
def is_clear(case: Case, model, prompts, new) -> bool:
    """Whether each token leads by MARGIN, none is EOS or pad, and rows vary.

    The check feeds prompt and continuation at once, without a cache: it is
    also the proof that transformers' cache gives the same tokens.
    """
    for prompt, answer in zip(prompts, new.tolist()):
        if case.eos_id in answer or case.pad_id in answer or len(set(answer)) < 4:
            return False
        ids, mask = build.pad_rows([prompt + answer], 0, "right")
        steps = build.golden_logits(model, ids, mask)[0, len(prompt) - 1 : -1]
        top = steps.topk(2)
        if (top.values[:, 0] - top.values[:, 1]).min() < MARGIN:
            return False
        assert top.indices[:, 0].tolist() == answer, "the cache changes the tokens"
    return True


# Configs ---------------------------------------------------------------------


def write_v4(case: Case, folder: Path, model) -> None:
    """config.v4.json, checked: the same weights under it give the same logits."""
    v5 = model.config.to_diff_dict()
    v4 = v4_config(case, v5, type(model.config).default_config_fields())
    build.write_json(folder / "config.v4.json", v4)
    with tempfile.TemporaryDirectory() as other:
        build.write_json(Path(other) / "config.json", v4)
        config = AutoConfig.from_pretrained(other)
    twin = build.load(folder, config=config)
    ids, mask = build.pad_rows(rows(case, "padded", PADDED_LENGTHS), case.pad_id, "left")
    assert torch.equal(build.golden_logits(model, ids, mask), build.golden_logits(twin, ids, mask))


def report(case: Case, model, golden: dict, folder: Path) -> None:
    """One line: sizes, spread of the logits, distance of the bf16 copy."""
    logits, half = golden["none.logits"], golden["none.logits_bf16"]
    count = sum(p.numel() for p in model.parameters())
    print(
        f"{case.name:20} {count:6} parameters  {1000 * build.megabytes(folder):4.0f} KB  "
        f"logits std {logits.std():.2f} max {logits.abs().max():.1f}  "
        f"bf16 off by {(half - logits).abs().max():.3f}  loss {golden['right.loss'].item():.3f}"
    )


if __name__ == "__main__":
    main()
