"""Checks the import of every architecture and tokenizer on small random models.

    python tests/golden/check_families.py write FOLDER     NAME.gguf and NAME.json for each
    (import each FOLDER/NAME.gguf into FOLDER/NAME)
    python tests/golden/check_families.py check FOLDER

The models are transformers' own, written as GGUF with gguf-py and llama.cpp's layout; the imported
folder must hold the same weights to the bit, and the tokenizer give the same ids. The SentencePiece
vocabulary is trained here, and compared with sentencepiece itself.
"""

import io
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXTS = [
    "hello world", "The cat sat on the mat in 1999.", "3.14159 and 2048", "  spaces   here ", "\n\nlines\r\n\tend", "don't I'LL we've",
    "naïve e\u0301", "你好 😀", "f(x) = x**2;", "", "a", "aaaaaaa", "UPPER", "hello<|end|>world",
]
PROSE = [Path(transformers.__file__).parent / "modeling_utils.py", Path(gguf.__file__).parent / "quants.py"]
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}NUM| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
             max_position_embeddings=64, head_dim=16, rope_theta=5000.0)


def split(numbers):
    pattern = Regex(SPLIT.replace("NUM", numbers))
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {
    "gpt-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama-bpe": (None, split("{1,3}")),
    "qwen2": (normalizers.NFC(), split("")),
    "smollm": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
}


def byte_level(writer, pre):
    tok = Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    normalizer, tok.pre_tokenizer = PRE[pre]
    if normalizer:
        tok.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tok.train_from_iterator([p.read_text() for p in PROSE], trainer)
    model = json.loads(tok.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(m) for m in model["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    tok.decoder = decoders.ByteLevel()
    return len(tokens), [tok.encode(t).ids for t in TEXTS]


def sentencepieces(writer):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for p in PROSE for line in p.read_text().splitlines() if line.strip()]), model_writer=out,
        model_type="bpe", vocab_size=900, byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    n = sp.vocab_size()
    types = [2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1 for i in range(n)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([sp.id_to_piece(i) for i in range(n)])
    writer.add_token_scores([sp.get_score(i) for i in range(n)])
    writer.add_token_types(types)
    writer.add_bos_token_id(sp.bos_id())
    writer.add_eos_token_id(sp.eos_id())
    writer.add_unk_token_id(sp.unk_id())
    return n, [[sp.bos_id(), *sp.encode(t)] for t in TEXTS]


def permute(w, heads):
    """As llama.cpp's convert_hf_to_gguf.py does."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def stored(name, w, arch, config):
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        return permute(w, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
    if arch == "gpt2" and w.ndim == 2 and ".h." in name:
        return w.T
    return w


def write_one(folder, name, arch, config_class, tokenizer, sizes):
    writer = gguf.GGUFWriter(folder / f"{name}.gguf", arch)
    vocab, ids = tokenizer(writer)
    config = config_class(vocab_size=vocab, **sizes)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(sizes.get("intermediate_size", 4 * config.hidden_size))
    writer.add_head_count(config.num_attention_heads)
    if arch == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(sizes["rope_theta"])
    names = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, arch.upper()), config.num_hidden_layers)
    for key, w in model.named_parameters():
        ggml = names.get_name(key, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(ggml, np.ascontiguousarray(stored(key, w.detach().numpy(), arch, config)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    torch.save(model.state_dict(), folder / f"{name}.pt")
    probe = torch.arange(20)[None] * 7 % vocab
    (folder / f"{name}.json").write_text(json.dumps({"ids": ids, "logits": model(probe).logits[0, -1].tolist()}))


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    t, pre = transformers, lambda name: lambda writer: byte_level(writer, name)
    write_one(folder, "llama-smollm", "llama", t.LlamaConfig, pre("smollm"), SIZES | dict(tie_word_embeddings=True))
    write_one(folder, "llama-bpe", "llama", t.LlamaConfig, pre("llama-bpe"), SIZES)
    write_one(folder, "llama-biased", "llama", t.LlamaConfig, pre("llama-bpe"), SIZES | dict(attention_bias=True))
    write_one(folder, "llama-spm", "llama", t.LlamaConfig, sentencepieces, SIZES)
    write_one(folder, "qwen2", "qwen2", t.Qwen2Config, pre("qwen2"), SIZES | dict(head_dim=8))
    write_one(folder, "qwen3", "qwen3", t.Qwen3Config, pre("qwen2"), SIZES | dict(tie_word_embeddings=True))
    write_one(folder, "gpt2", "gpt2", t.GPT2Config, pre("gpt-2"), dict(n_embd=32, n_layer=2, n_head=4, n_positions=64))


def check(folder):
    for answers in sorted(folder.glob("*.json")):
        name, wanted = answers.stem, json.loads(answers.read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(folder / name).eval()
        state, reference = model.state_dict(), torch.load(folder / f"{name}.pt")
        assert state.keys() == reference.keys(), (name, state.keys() ^ reference.keys())
        assert all(torch.equal(state[k], reference[k]) for k in state), name
        tok = transformers.AutoTokenizer.from_pretrained(folder / name)
        for text, ids in zip(TEXTS, wanted["ids"]):
            got = tok(text).input_ids
            assert got == ids, (name, text, ids, got)
        logits = model(torch.arange(20)[None] * 7 % len(tok)).logits[0, -1]
        assert torch.allclose(logits, torch.tensor(wanted["logits"]), rtol=1e-5, atol=1e-5), name
        print(f"{name}: {len(state)} tensors equal to the bit, {len(TEXTS)} texts, logits")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
