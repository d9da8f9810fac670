//! Rows of instruction data <-> token ids. Layer 1: uses `text`.
