"""Compares an imported SmolLM2-135M-Instruct with transformers' own reading of the GGUF file.

    python tests/golden/check_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf IMPORTED_FOLDER

Weights: every tensor to the bit. Tokenizer: SmolLM2's, which splits digits one by one in front of
byte-level BPE (transformers' GGUF path forgets that split, so it is put back here). Then the greedy
answer to a question, through the folder's chat template.
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

TEXTS = [
    "", " ", "Hello, world!", "  two  spaces ", "2048", "3.14159", "In 1999, 12 people ate 3,456 apples.", "a1b22c333",
    "١٢٣ ½ Ⅷ ²", "line\nbreak\n\n\ttab", "\r\n windows\r\n", "don't we'll I'M", "    def f(x):\n        return x ** 2\n",
    "for (int i = 0; i < 10; ++i) { a[i] = 0x1F; }", "😀 👩‍👩‍👧 🏳️‍🌈", "你好，世界。今天是2024年。", "こんにちは", "Привет, мир",
    "العربية", "naïve café e\u0301", "\u00a0nbsp\u2003em", "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "a<|im_end|>b 7<|im_end|>",
    "\x00\x01 control", "https://example.org/a?b=1&c=22", "x" * 300, "!!!???...", "UPPER lower MiXeD", "<repo_name>x<file_sep>",
    "\u200bzero\ufeff", "1 000 000", "v1.2.3-rc4",
]


def weights(gguf, ours):
    reference = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    wanted, got = reference.state_dict(), ours.state_dict()
    assert wanted.keys() == got.keys(), wanted.keys() ^ got.keys()
    for name, tensor in wanted.items():
        assert got[name].dtype == torch.float32 and torch.equal(tensor.view(torch.int32), got[name].view(torch.int32)), name
    names = {name for name, _ in reference.named_parameters()}
    for key in ("rope_parameters", "rms_norm_eps", "head_dim", "num_key_value_heads", "tie_word_embeddings", "max_position_embeddings"):
        print(f"  {key}: {getattr(ours.config, key)} (reference: {getattr(reference.config, key)})")
    print(f"weights: {len(names)} tensors equal to the bit")


def tokenizer(gguf, folder):
    reference = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    reference.backend_tokenizer.normalizer = None
    ours = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        wanted, got = reference.backend_tokenizer.encode(text).ids, ours(text).input_ids
        assert wanted == got, (text, wanted, got)
        if "\x00" not in text:
            assert ours.decode(got, clean_up_tokenization_spaces=False) == text, (text, ours.decode(got))
    digits = ours.convert_tokens_to_ids(list("2048"))
    assert ours("2048").input_ids == digits, (ours("2048").input_ids, digits)
    assert len(ours) == 49152 and reference.get_vocab() == ours.get_vocab()
    print(f"tokenizer: {len(TEXTS)} texts, {len(ours)} tokens, class {type(ours).__name__}, specials {ours.special_tokens_map}")
    return ours


def answer(model, tok, folder):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tok.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, do_sample=False, max_new_tokens=32)[0][ids["input_ids"].shape[1]:]
    text = tok.decode(out)
    assert text == "The capital of France is Paris.<|im_end|>", text
    print(f"answer: {text}")
    print(f"generation: {json.dumps(GenerationConfig.from_pretrained(folder).to_diff_dict())}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    ours = AutoModelForCausalLM.from_pretrained(args.folder)
    assert ours.dtype == torch.float32, ours.dtype
    tok = tokenizer(args.gguf, args.folder)
    answer(ours, tok, args.folder)
    weights(args.gguf, ours)


if __name__ == "__main__":
    main()
