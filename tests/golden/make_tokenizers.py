#!/usr/bin/env python3
"""Small tokenizers of each kind and what transformers makes of texts, for tests/text.rs.

    python tests/golden/make_tokenizers.py        (transformers 5.23, tokenizers 0.23)

Writes tests/fixtures/tokenizers/<kind>/ and golden.json. The text they are trained on is ours.
"""

import json
import pathlib
import shutil

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE.parent / "fixtures" / "tokenizers"

CORPUS = [
    "A retort is a vessel for distilling, and an answer. The student's own replies are scored by the teacher.",
    "Reverse KL seeks modes; forward KL covers them. It's 12345 tokens, we've counted 67 twice!",
    "Größe, naïve café, 數學 and e\u0301: the tokenizer sees bytes. \U0001f600 \U0001f44d",
    "def distil(student, teacher):\n    return student - 0.5 * teacher  # a comment\n\n\tend",
    "  Two spaces, three   spaces,    four.  ",
] * 4

TEXTS = [
    "",
    " ",
    "A retort is a vessel.",
    " a retort",
    "It's the student's, we've 12345 of 67!",
    "Größe 數學 e\u0301 é \U0001f600\U0001f44d\U0001f3fd \u0000 \u200b",
    "line one\nline two\r\n\r\n\ttabbed   \n\n  end  ",
    "before<|end|>after <|end|> and </s> <s><pad>[MASK] unseen: ξψ漢",
    "don't   stop, café naïve .  end .",
    "<extra>x<extra> y",
]


def byte_level(specials, vocab=340):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(CORPUS, trainer)
    return tok


def write(name, config, tok=None, legacy=None, extra=None):
    folder = OUT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if tok is not None:
        tok.save(str(folder / "tokenizer.json"), pretty=False)
    if legacy is not None:
        legacy.model.save(str(folder))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n")
    for file, content in (extra or {}).items():
        (folder / file).write_text(json.dumps(content, ensure_ascii=False) + "\n")
    return folder


def make():
    fast = "PreTrainedTokenizerFast"
    # GPT-2 with a digit split, read as it stands.
    tok = byte_level(["<|end|>"])
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), tok.pre_tokenizer])
    tok.enable_padding(pad_id=0, pad_token="<|end|>", length=8)
    tok.enable_truncation(4)
    yield write("digits", {"tokenizer_class": fast, "eos_token": "<|end|>", "bos_token": "<|end|>"}, tok)

    # The old folders: vocab.json with merges.txt.
    tok = byte_level(["<|endoftext|>"])
    yield write("gpt2", {"tokenizer_class": "GPT2Tokenizer"}, legacy=tok, extra={"config.json": {"model_type": "gpt2"}})
    tok = byte_level(["<pad>", "</s>"])
    opt = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False}
    opt |= {k: "</s>" for k in ("bos_token", "eos_token", "unk_token")} | {"pad_token": "<pad>"}
    yield write("opt", opt, legacy=tok, extra={"config.json": {"model_type": "opt"}, "added_tokens.json": {"<extra>": 340}})
    tok = byte_level(["<|endoftext|>"])
    yield write("qwen2", {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>", "eos_token": "<|end|>", "bos_token": None,
        "added_tokens_decoder": {"340": {"content": "<|end|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}}},
        legacy=tok, extra={"config.json": {"model_type": "qwen2"}})
    tok = byte_level(["<|endoftext|>"])
    yield write("mapped", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, legacy=tok, extra={
        "config.json": {"model_type": "gpt2"},
        "special_tokens_map.json": {"eos_token": {"content": "<|endoftext|>", "lstrip": False, "rstrip": True, "normalized": False, "single_word": False}, "pad_token": "<pad>"}})

    # Llama 3: split by a regex, merges ignored for whole words, BOS by the post-processor.
    tok = byte_level(["<|bos|>", "<|end|>"])
    split = pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated")
    tok.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.model.ignore_merges = True
    bos = processors.TemplateProcessing(single="<|bos|> $A", pair="<|bos|> $A <|bos|> $B", special_tokens=[("<|bos|>", 0)])
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    tok.add_tokens([AddedToken("<extra>", lstrip=True, rstrip=True, normalized=True)])
    yield write("llama3", {"tokenizer_class": fast, "eos_token": "<|end|>", "bos_token": "<|bos|>", "add_bos_token": False, "clean_up_tokenization_spaces": True,
        "pad_token": "<pad>", "additional_special_tokens": ["[MASK]"]}, tok)

    # Llama 2: SentencePiece's BPE with byte fallback.
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, special_tokens=specials))
    data = json.loads(tok.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    yield write("llama2", {"tokenizer_class": fast, "eos_token": "</s>", "bos_token": "<s>", "unk_token": {"__type": "AddedToken", "content": "<unk>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}}, tok)

    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    tok.decoder = decoders.Metaspace()
    tok.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    yield write("unigram", {"tokenizer_class": fast, "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "clean_up_tokenization_spaces": True}, tok)

    tok = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.decoder = decoders.WordPiece()
    tok.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]))
    tok.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    yield write("wordpiece", {"tokenizer_class": fast, "eos_token": "[SEP]", "bos_token": "[CLS]", "pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]", "clean_up_tokenization_spaces": True}, tok)

    # No config at all.
    yield write("bare", None, byte_level(["<|end|>"]), extra={"special_tokens_map.json": {"eos_token": "<|end|>"}, "config.json": {"model_type": "llama"}})


def main():
    golden = {}
    for folder in make():
        # `bare`: read by the class that takes the file as it stands.
        if folder.name == "bare":
            from transformers import PreTrainedTokenizerFast
            tok = PreTrainedTokenizerFast.from_pretrained(folder)
        else:
            tok = AutoTokenizer.from_pretrained(folder)
        cases = []
        for text in TEXTS:
            with_, without = tok(text)["input_ids"], tok(text, add_special_tokens=False)["input_ids"]
            if folder.name == "digits":  # transformers keeps the file's padding and truncation; retort clears them
                tok._tokenizer.no_padding(); tok._tokenizer.no_truncation()
                with_, without = tok._tokenizer.encode(text).ids, tok._tokenizer.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "ids": with_, "plain": without, "decoded": tok.decode(with_), "skipped": tok.decode(with_, skip_special_tokens=True)})
        golden[folder.name] = {"class": type(tok).__name__, "size": len(tok), "eos": tok.eos_token_id, "bos": tok.bos_token_id, "pad": tok.pad_token_id, "named": tok.special_tokens_map, "cases": cases}
    (OUT / "golden.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
