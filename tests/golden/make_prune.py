"""Writes tests/fixtures/prune/: how much the parts of small models matter, and what is left when some go, by torch.

The models are those of fixtures/parity. `CASE.ids` [8, 12] are random rows; of each case the file has

* `CASE.gradient.{groups,neurons,hidden}`: MiniMA's scores over two batches of four rows. Nothing is masked here: the
  gradient by a factor of one on x is the sum of x times dL/dx, which the chain rule gives from what flows anyway. The
  state between blocks has a factor on the embedding, on what each sublayer adds, and on each sum;
* `CASE.activation.{groups,neurons,hidden}`: Minitron's, each row a sample, hidden from the norms' outputs;
* `CASE.distance` and `CASE.damage`, one a layer: 1 - cos of its input and output; the loss where it is the identity;
* `CASE.kept.{layers,hidden,groups,neurons}`, the last two a row a layer that stays: indices drawn at random, and
  `CASE.cut.logits`, those of the model that has these alone, its weights sliced by hand and loaded by transformers.
"""

import copy

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from transformers import AutoModelForCausalLM

import build

OUT = build.FIXTURES / "prune"
CASES = ["gpt2", "opt-pre", "opt-post", "opt-nobias", "llama", "llama3", "mistral", "qwen2", "qwen2-window", "qwen3"]
CASES += ["qwen3-window", "gpt_neox", "gpt_neox-sequential"]
ROWS, TOKENS, BATCH = 8, 12, 4

LLAMA = dict(
    blocks="model.layers", out="self_attn.o_proj", down="mlp.down_proj", first="self_attn.q_proj", up="mlp.gate_proj"
)
LLAMA |= dict(norms=("input_layernorm", "post_attention_layernorm"))
OPT = dict(blocks="model.decoder.layers", out="self_attn.out_proj", down="fc2", first="self_attn.q_proj", up="fc1")
OPT |= dict(norms=("self_attn_layer_norm", "final_layer_norm"))
GPT2 = dict(blocks="transformer.h", out="attn.c_proj", down="mlp.c_proj", first="attn.c_attn", up="mlp.c_fc")
GPT2 |= dict(norms=("ln_1", "ln_2"))
NEOX = dict(blocks="gpt_neox.layers", out="attention.dense", down="mlp.dense_4h_to_h")
NEOX |= dict(first="attention.query_key_value", up="mlp.dense_h_to_4h")
NEOX |= dict(norms=("input_layernorm", "post_attention_layernorm"))
PARTS = dict(gpt2=GPT2, opt=OPT, gpt_neox=NEOX)


def main() -> None:
    build.set_up()
    build.fresh(OUT)
    golden = {}
    for case in CASES:
        folder = build.FIXTURES / "parity" / case
        model = build.load(folder)
        rows = build.random_rows(build.seed_of(case, "prune"), model.config.vocab_size, [TOKENS] * ROWS)
        ids = torch.tensor(rows)
        values = {"ids": ids} | gradients(model, ids) | activations(model, ids) | layers(model, ids)
        values |= cut(case, model, ids)
        golden |= {f"{case}.{name}": value for name, value in values.items()}
        print(f"{case:20} {len(values)} tensors, logits std {values['cut.logits'].std():.2f}")
    build.write_tensors(OUT / "golden.safetensors", golden)
    build.readable(OUT)


def sizes(model) -> tuple[int, int, int]:
    """Heads, key/value heads, channels of a head."""
    c = model.config
    heads = c.num_attention_heads
    return heads, getattr(c, "num_key_value_heads", None) or heads, getattr(c, "head_dim", None) or c.hidden_size // heads


def blocks_of(model):
    parts = PARTS.get(model.config.model_type, LLAMA)
    return list(model.get_submodule(parts["blocks"])), parts


class Caught:
    """Inputs and outputs of modules in the last pass."""

    def __init__(self, modules: dict, retain: bool):
        self.retain, self.x, self.y, self.hooks = retain, {}, {}, []
        for name, module in modules.items():
            self.hooks.append(module.register_forward_hook(self.hook(name), with_kwargs=True))

    def hook(self, name):
        def keep(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            for table, value in ((self.x, x), (self.y, y)):
                if self.retain and value.requires_grad:
                    value.retain_grad()
                table[name] = value

        return keep

    def __enter__(self):
        return self

    def __exit__(self, *_):
        [hook.remove() for hook in self.hooks]


def modules_of(model) -> dict:
    blocks, parts = blocks_of(model)
    found = {}
    for at, block in enumerate(blocks):
        found[at, "block"] = block
        for what in ("out", "down", "first", "up"):
            found[at, what] = block.get_submodule(parts[what])
        for n, norm in enumerate(parts["norms"]):
            found[at, f"norm{n}"] = block.get_submodule(norm)
    return found


def loss_of(model, ids):
    logits = model(input_ids=ids, use_cache=False).logits.float()
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(model, ids) -> dict:
    count = len(blocks_of(model)[0])
    kv = sizes(model)[1]
    post = model.config.model_type == "opt" and not model.config.do_layer_norm_before
    sums = {"groups": 0, "neurons": 0, "hidden": 0}
    for batch in ids.split(BATCH):
        with Caught(modules_of(model), retain=True) as caught:
            model.zero_grad()
            loss_of(model, batch).backward()
        x, y = caught.x, caught.y
        width = x[0, "block"].shape[-1]
        along = lambda t, g: (t.double() * g.double()).reshape(-1, t.shape[-1]).sum(0)
        hidden = along(x[0, "block"], x[0, "block"].grad)
        groups, neurons = [], []
        for at in range(count):
            heads_in, net_in = x[at, "out"], x[at, "down"]
            groups.append(along(heads_in, heads_in.grad).reshape(kv, -1).sum(1).abs())
            neurons.append(along(net_in, net_in.grad).abs())
            stream = x[at, "block"]
            for what in ("out", "down"):
                out = y[at, what]
                grad = out.grad.reshape(stream.shape)
                out = out.reshape(stream.shape)
                joined = stream + out
                hidden = hidden + along(out, grad) + along(joined, grad)
                # With norms behind the sums the net reads, and adds to, the norm's output.
                stream = x[at, "up"].reshape(stream.shape) if post else joined
        assert hidden.shape == (width,)
        for name, value in (("groups", torch.stack(groups)), ("neurons", torch.stack(neurons))):
            sums[name] = sums[name] + value
        sums["hidden"] = sums["hidden"] + hidden.abs()
    batches = len(ids) // BATCH
    out = {}
    for name, value in sums.items():
        value = (value / batches).detach()
        if name != "hidden":
            value = value / (value.norm(dim=1, keepdim=True) + 1e-17)
        out[f"gradient.{name}"] = value.float()
    return out


@torch.no_grad()
def activations(model, ids) -> dict:
    blocks, _ = blocks_of(model)
    kv = sizes(model)[1]
    post = model.config.model_type == "opt" and not model.config.do_layer_norm_before
    squares = {}
    for row in ids:
        with Caught(modules_of(model), retain=False) as caught:
            model(input_ids=row[None], use_cache=False)
        for at in range(len(blocks)):
            seen = {"heads": caught.x[at, "out"], "net": caught.x[at, "down"]}
            # Norms behind the sums: what the sublayers read (see src/prune/importance.rs).
            readers = {"norm0": caught.x[at, "first"], "norm1": caught.x[at, "up"]}
            seen |= readers if post else {n: caught.y[at, n] for n in ("norm0", "norm1")}
            for name, t in seen.items():
                mean = t.double().abs().reshape(-1, t.shape[-1]).mean(0)
                squares[at, name] = squares.get((at, name), 0) + mean**2
    layers = range(len(blocks))
    roots = {key: value.sqrt() for key, value in squares.items()}
    groups = torch.stack([roots[at, "heads"].reshape(kv, -1).norm(dim=1) for at in layers])
    neurons = torch.stack([roots[at, "net"] for at in layers])
    hidden = sum(roots[at, name] for at in layers for name in ("norm0", "norm1"))
    found = {"groups": groups, "neurons": neurons, "hidden": hidden}
    return {f"activation.{name}": value.float() for name, value in found.items()}


@torch.no_grad()
def layers(model, ids) -> dict:
    blocks, _ = blocks_of(model)
    with Caught(modules_of(model), retain=False) as caught:
        model(input_ids=ids, use_cache=False)
    cos = [cosine_similarity(caught.x[at, "block"].double(), caught.y[at, "block"].double(), dim=-1) for at in range(len(blocks))]
    damage = []
    for block in blocks:

        def skip(_, args, kwargs, out):
            x = args[0] if args else kwargs["hidden_states"]
            return (x, *out[1:]) if isinstance(out, tuple) else x

        hook = block.register_forward_hook(skip, with_kwargs=True)
        damage.append(loss_of(model, ids))
        hook.remove()
    return {"distance": torch.stack([1 - c.mean() for c in cos]).float(), "damage": torch.stack(damage)}


# The cut ---------------------------------------------------------------------


def cut(case, model, ids) -> dict:
    """Half of everything, drawn at random, sliced by hand."""
    config, kind = model.config, model.config.model_type
    draw = np.random.RandomState(build.seed_of(case, "cut"))
    some = lambda n, k: torch.from_numpy(np.sort(draw.permutation(n)[:k]))
    heads, kv, dim = sizes(model)
    count = config.num_hidden_layers
    keep = some(count, max(1, count - 1))
    keep_kv = max(1, kv - 1)
    # Where the size of a head is hidden / heads, hidden goes with the heads.
    free = kind not in ("gpt2", "opt", "gpt_neox")
    hidden = some(config.hidden_size, 14 if free else keep_kv * dim)
    ffn = len(model.state_dict()[first_bias_or_weight(model)])
    groups = [some(kv, keep_kv) for _ in keep]
    neurons = [some(ffn, ffn // 2) for _ in keep]

    new = copy.deepcopy(config)
    new.hidden_size, new.num_hidden_layers = len(hidden), len(keep)
    new.num_attention_heads = keep_kv * heads // kv
    if free:
        new.num_key_value_heads, new.head_dim = keep_kv, dim
    name = {"gpt2": "n_inner", "opt": "ffn_dim"}.get(kind, "intermediate_size")
    setattr(new, name, ffn // 2)
    if kind == "opt" and config.word_embed_proj_dim == config.hidden_size:
        new.word_embed_proj_dim = len(hidden)
    if getattr(config, "layer_types", None):
        new.layer_types = [config.layer_types[at] for at in keep]
    small = AutoModelForCausalLM.from_config(new, attn_implementation="eager").eval()
    state = sliced(model, kind, keep, hidden, groups, neurons)
    missing = small.load_state_dict({k: v for k, v in state.items() if k in small.state_dict()}, strict=False)
    assert not [k for k in missing.missing_keys if "lm_head" not in k or not new.tie_word_embeddings], missing
    small.tie_weights()
    with torch.no_grad():
        logits = small(input_ids=ids, use_cache=False).logits.float()
    kept = {"layers": keep, "hidden": hidden, "groups": torch.stack(groups), "neurons": torch.stack(neurons)}
    return {f"kept.{k}": v.contiguous() for k, v in kept.items()} | {"cut.logits": logits}


def first_bias_or_weight(model) -> str:
    """A tensor whose first axis is the neurons."""
    ends = {"gpt2": "h.0.mlp.c_fc.bias", "opt": "layers.0.fc1.weight", "gpt_neox": "layers.0.mlp.dense_h_to_4h.bias"}
    end = ends.get(model.config.model_type, "layers.0.mlp.up_proj.weight")
    return next(n for n in model.state_dict() if n.endswith(end))


def sliced(model, kind, keep, hidden, groups, neurons) -> dict:
    heads, kv, dim = sizes(model)
    spread = lambda which, width: torch.cat([torch.arange(g * width, (g + 1) * width) for g in which])
    word = kind == "opt" and model.config.word_embed_proj_dim != model.config.hidden_size
    state = {}
    for name, t in model.state_dict().items():
        parts = name.split(".")
        number = next((p for p in parts if p.isdigit()), None)
        if number is None:
            embeds = parts[-2] in ("embed_tokens", "lm_head")
            if parts[-2] == "project_in":
                t = t[hidden]
            elif t.dim() == 1:
                t = t[hidden]
            elif not (word and embeds):
                t = t[:, hidden]
            state[name] = t
            continue
        if int(number) not in keep.tolist():
            continue
        at = keep.tolist().index(int(number))
        parts[parts.index(number)] = str(at)
        g, f = groups[at], neurons[at]
        q, k = spread(g, heads // kv * dim), spread(g, dim)
        out = {
            "q_proj": (q, hidden), "k_proj": (k, hidden), "v_proj": (k, hidden),
            "o_proj": (hidden, q), "out_proj": (hidden, q), "dense": (hidden, q),
            "query_key_value": (spread(g, 3 * dim), hidden),
            "c_attn": (torch.cat([q + n * heads * dim for n in range(3)]), hidden),
            "gate_proj": (f, hidden), "up_proj": (f, hidden), "fc1": (f, hidden),
            "c_fc": (f, hidden), "dense_h_to_4h": (f, hidden),
            "down_proj": (hidden, f), "fc2": (hidden, f), "dense_4h_to_h": (hidden, f),
            "c_proj": (hidden, q if "attn" in parts else f),
        }
        module = parts[-2]
        if module in ("q_norm", "k_norm"):
            pass
        elif module not in out:
            t = t[hidden]
        elif t.dim() == 1:
            t = t[out[module][0]]
        elif kind == "gpt2":
            t = t[out[module][1]][:, out[module][0]]
        else:
            t = t[out[module][0]][:, out[module][1]]
        state[".".join(parts)] = t
    return state


if __name__ == "__main__":
    main()
