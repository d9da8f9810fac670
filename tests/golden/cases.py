"""The parity cases: one small, oddly shaped model each.

Every setting that a port could overlook is set to something other than its
default in at least one case, and large enough to show in the logits: the
epsilons are 1e-2, not 1e-6; a sliding window is shorter than the rows.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A model by its config, and the sizes of the batches it is fed."""

    name: str
    model_type: str
    config: dict
    pad_id: int
    # Config keys of the transformers 4 spelling that override the derived ones.
    v4: dict = field(default_factory=dict)

    @property
    def eos_id(self) -> int:
        return self.config["eos_token_id"]


def _gpt2(**extra):
    base = dict(n_positions=33, bos_token_id=3, eos_token_id=3)
    return base | extra


def _opt(**extra):
    base = dict(max_position_embeddings=31, pad_token_id=1, bos_token_id=2, eos_token_id=2)
    return base | extra


def _rope(theta, **extra):
    return {"rope_type": "default", "rope_theta": theta} | extra


def _decoder(**extra):
    """What llama, mistral, qwen2 and qwen3 share."""
    base = dict(max_position_embeddings=64, rms_norm_eps=0.01, bos_token_id=1, eos_token_id=2)
    return base | extra


def _neox(**extra):
    base = dict(max_position_embeddings=64, layer_norm_eps=0.02, bos_token_id=0, eos_token_id=2)
    return base | extra


LLAMA3_ROPE = _rope(
    100.0,
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)

CASES = [
    Case(
        "gpt2",
        "gpt2",
        _gpt2(vocab_size=61, n_embd=21, n_head=3, n_layer=2, layer_norm_epsilon=0.01),
        pad_id=0,
        v4={"n_ctx": 33},
    ),
    Case(
        "gpt2-variant",
        "gpt2",
        _gpt2(
            vocab_size=67,
            n_embd=20,
            n_head=5,
            n_layer=3,
            n_inner=27,
            scale_attn_by_inverse_layer_idx=True,
            activation_function="gelu",
            tie_word_embeddings=False,
        ),
        pad_id=3,
        v4={"n_ctx": 33},
    ),
    Case(
        "opt-pre",
        "opt",
        _opt(
            vocab_size=71,
            hidden_size=20,
            num_attention_heads=5,
            num_hidden_layers=3,
            ffn_dim=36,
            do_layer_norm_before=True,
            word_embed_proj_dim=20,
        ),
        pad_id=1,
        v4={"_remove_final_layer_norm": False},
    ),
    Case(
        "opt-post",
        "opt",
        _opt(
            vocab_size=73,
            hidden_size=24,
            num_attention_heads=3,
            num_hidden_layers=2,
            ffn_dim=40,
            do_layer_norm_before=False,
            word_embed_proj_dim=16,
        ),
        pad_id=1,
        v4={"_remove_final_layer_norm": False},
    ),
    Case(
        "opt-nobias",
        "opt",
        _opt(
            vocab_size=79,
            hidden_size=21,
            num_attention_heads=3,
            num_hidden_layers=2,
            ffn_dim=50,
            enable_bias=False,
            layer_norm_elementwise_affine=False,
            activation_function="gelu",
        ),
        pad_id=1,
    ),
    Case(
        "llama",
        "llama",
        _decoder(
            vocab_size=83,
            hidden_size=24,
            intermediate_size=34,
            num_attention_heads=6,
            num_key_value_heads=2,
            num_hidden_layers=2,
            rope_parameters=_rope(10000.0),
        ),
        pad_id=0,
    ),
    Case(
        "llama-linear",
        "llama",
        _decoder(
            vocab_size=89,
            hidden_size=30,
            intermediate_size=26,
            num_attention_heads=3,
            num_key_value_heads=3,
            num_hidden_layers=2,
            hidden_act="gelu",
            tie_word_embeddings=True,
            rope_parameters=_rope(300.0, rope_type="linear", factor=2.0),
        ),
        pad_id=2,
    ),
    Case(
        "llama3",
        "llama",
        _decoder(
            vocab_size=61,
            hidden_size=20,
            intermediate_size=28,
            num_attention_heads=5,
            num_key_value_heads=1,
            head_dim=12,
            num_hidden_layers=2,
            attention_bias=True,
            mlp_bias=True,
            pad_token_id=4,
            rope_parameters=LLAMA3_ROPE,
        ),
        pad_id=4,
    ),
    Case(
        "mistral",
        "mistral",
        _decoder(
            vocab_size=67,
            hidden_size=22,
            intermediate_size=30,
            num_attention_heads=6,
            num_key_value_heads=3,
            head_dim=8,
            num_hidden_layers=2,
            sliding_window=5,
            rope_parameters=_rope(1000.0),
        ),
        pad_id=0,
    ),
    Case(
        "mistral-full",
        "mistral",
        _decoder(
            vocab_size=71,
            hidden_size=24,
            intermediate_size=30,
            num_attention_heads=4,
            num_key_value_heads=1,
            num_hidden_layers=2,
            sliding_window=None,
            hidden_act="gelu_pytorch_tanh",
            rope_parameters=_rope(10000.0),
        ),
        pad_id=0,
    ),
    Case(
        "qwen2",
        "qwen2",
        _decoder(
            vocab_size=97,
            hidden_size=24,
            intermediate_size=32,
            num_attention_heads=3,
            num_key_value_heads=1,
            num_hidden_layers=2,
            tie_word_embeddings=True,
            rope_parameters=_rope(1000.0),
        ),
        pad_id=0,
        # Real folders say so: a window that is not in use.
        v4={"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1},
    ),
    Case(
        "qwen2-window",
        "qwen2",
        _decoder(
            vocab_size=73,
            hidden_size=20,
            intermediate_size=26,
            num_attention_heads=5,
            num_key_value_heads=5,
            num_hidden_layers=3,
            use_sliding_window=True,
            sliding_window=4,
            max_window_layers=1,
            rope_parameters=_rope(10000.0),
        ),
        pad_id=0,
    ),
    Case(
        "qwen3",
        "qwen3",
        _decoder(
            vocab_size=89,
            hidden_size=22,
            intermediate_size=30,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=10,
            num_hidden_layers=2,
            tie_word_embeddings=True,
            rope_parameters=_rope(1000.0),
        ),
        pad_id=0,
        v4={"use_sliding_window": False, "sliding_window": None, "max_window_layers": 2},
    ),
    Case(
        "qwen3-window",
        "qwen3",
        _decoder(
            vocab_size=61,
            hidden_size=20,
            intermediate_size=24,
            num_attention_heads=3,
            num_key_value_heads=1,
            head_dim=8,
            num_hidden_layers=3,
            attention_bias=True,
            hidden_act="relu",
            use_sliding_window=True,
            sliding_window=3,
            max_window_layers=2,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=_rope(10000.0),
        ),
        pad_id=0,
        # No transformers 4 key but layer_types (4.53 on) can say this pattern.
        v4={"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    Case(
        "gpt_neox",
        "gpt_neox",
        _neox(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=26,
            num_attention_heads=2,
            num_hidden_layers=2,
            rope_parameters=_rope(100.0, partial_rotary_factor=0.25),
        ),
        pad_id=1,
    ),
    Case(
        "gpt_neox-sequential",
        "gpt_neox",
        _neox(
            vocab_size=67,
            hidden_size=24,
            intermediate_size=36,
            num_attention_heads=3,
            num_hidden_layers=2,
            hidden_act="gelu_new",
            use_parallel_residual=False,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters=_rope(10000.0, partial_rotary_factor=0.5),
        ),
        pad_id=1,
    ),
]
