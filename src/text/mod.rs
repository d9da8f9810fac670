//! Text <-> tokens: the tokenizer behind a fence, chat templates, the token audit. Layer 1.
