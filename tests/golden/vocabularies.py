"""Small tokenizers, trained on corpus.TRAINING and written as folders hold them."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import build
from corpus import CHAT_TEMPLATE, TRAINING

END = "<|endoftext|>"
CHAT = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def _train(pre_tokenizer, alphabet, size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """The single characters and the merges of a BPE of `size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TRAINING.splitlines(keepends=True), trainer)
    made = tokenizer.get_vocab()
    model = build.json.loads(tokenizer.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    characters = sorted((token for token in made if len(token) == 1), key=made.get)
    return characters, merges


def _number(tokens) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def _byte_level(size: int):
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return pre_tokenizer, *_train(pre_tokenizer, pre_tokenizers.ByteLevel.alphabet(), size)


def chat_bpe(folder: Path) -> int:
    """tokenizer.json: byte-level BPE, digits apart, ChatML specials at 0, 1, 2."""
    pre_tokenizer, characters, merges = _byte_level(317)
    vocab = _number(CHAT + characters + [a + b for a, b in merges])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CHAT])
    tokenizer.save(str(folder / "tokenizer.json"))
    # Not GPT2Tokenizer, under which transformers 5 would drop the digit split.
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    build.write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    return len(vocab)


def _write_vocab_and_merges(folder: Path, vocab, merges) -> None:
    build.write_json(folder / "vocab.json", vocab)
    lines = ["#version: 0.2"] + [f"{a} {b}" for a, b in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def gpt2_files(folder: Path) -> int:
    """vocab.json and merges.txt alone, <|endoftext|> last, as GPT-2's folder."""
    _, characters, merges = _byte_level(319)
    vocab = _number(characters + [a + b for a, b in merges] + [END])
    _write_vocab_and_merges(folder, vocab, merges)
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": 256}
    build.write_json(folder / "tokenizer_config.json", config)
    names = {"bos_token": END, "eos_token": END, "unk_token": END}
    build.write_json(folder / "special_tokens_map.json", names)
    return len(vocab)


def opt_files(folder: Path) -> int:
    """vocab.json and merges.txt with OPT's specials; </s> goes before every text."""
    _, characters, merges = _byte_level(316)
    vocab = _number(["<s>", "<pad>", "</s>", "<unk>"] + characters + [a + b for a, b in merges])
    _write_vocab_and_merges(folder, vocab, merges)

    def token(content):
        # As OPT's folder spells it: an AddedToken, not marked special.
        flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        return {"__type": "AddedToken", "content": content} | flags

    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": True,
        "add_prefix_space": False,
        "errors": "replace",
        "bos_token": token("</s>"),
        "eos_token": token("</s>"),
        "pad_token": token("<pad>"),
        "unk_token": token("</s>"),
    }
    build.write_json(folder / "tokenizer_config.json", config)
    return len(vocab)


def llama2_bpe(folder: Path) -> int:
    """tokenizer.json as Llama 2's: pieces with byte fallback, <s> by post-processor."""
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    characters, merges = _train(metaspace, ["▁"], 130)
    specials = ["<unk>", "<s>", "</s>"]
    letters = [c for c in characters if c not in "\n\t"]
    merges = [(a, b) for a, b in merges if "\n" not in a + b]
    vocab = _number(specials + [f"<0x{i:02X}>" for i in range(256)] + [a + b for a, b in merges] + letters)
    model = models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 512,
    }
    build.write_json(folder / "tokenizer_config.json", config)
    return len(vocab)
