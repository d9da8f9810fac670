"""The transformers 4 spelling of a config that transformers 5 wrote.

A folder of transformers 4 (and older) has `torch_dtype` where 5 has `dtype`,
`rope_theta` and `rope_scaling` (GPT-NeoX: `rotary_emb_base`, `rotary_pct`)
where 5 has `rope_parameters`, and no `layer_types`. Keys that were added to a
class later are not in older folders at all, so every key that equals its
class's default is left out: what is left pins the defaults too.
"""

# Present in every config, whatever its value.
KEEP = {"architectures", "model_type", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
# What the transformers 5 loader computes and writes out; 4 did not write it.
DERIVED = {"dtype", "rope_parameters", "layer_types", "transformers_version"}
V4_VERSION = "4.44.2"


def v4_config(case, v5: dict, defaults: dict) -> dict:
    """`v5` (config.json as saved) as transformers 4 would have spelled it."""
    plain = {k: v for k, v in v5.items() if k not in DERIVED}
    out = {k: v for k, v in plain.items() if k in KEEP or k not in defaults or defaults[k] != v}
    _drop_implied(out)
    out |= _rope(v5)
    out |= {"torch_dtype": v5["dtype"], "transformers_version": V4_VERSION}
    return dict(sorted((out | case.v4).items()))


def _drop_implied(config: dict) -> None:
    """Leaves out what follows from other keys (older LlamaConfig had neither)."""
    if config["model_type"] not in ("llama", "mistral"):
        return
    heads = config["num_attention_heads"]
    if config.get("head_dim") == config["hidden_size"] // heads:
        del config["head_dim"]
    if config["model_type"] == "llama" and config.get("num_key_value_heads") == heads:
        del config["num_key_value_heads"]


def _rope(v5: dict) -> dict:
    """The rotary keys of transformers 4, defaults left out."""
    rope = dict(v5.get("rope_parameters") or {})
    if not rope:
        return {}
    theta = rope.pop("rope_theta")
    if v5["model_type"] == "gpt_neox":
        pct = rope.pop("partial_rotary_factor")
        out = {"rotary_emb_base": theta, "rotary_pct": pct}
        standard = {"rotary_emb_base": 10000.0, "rotary_pct": 0.25}
    else:
        out, standard = {"rope_theta": theta}, {"rope_theta": 10000.0}
    out = {k: v for k, v in out.items() if v != standard[k]}
    out["rope_scaling"] = _scaling(rope)
    return out


def _scaling(rope: dict):
    """`rope_scaling`: null, or a dict; before 4.43 its kind was called `type`."""
    kind = rope.pop("rope_type")
    if kind == "default":
        return None
    return {"type" if kind == "linear" else "rope_type": kind} | rope
