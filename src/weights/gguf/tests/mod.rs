//! Tests of the GGUF reader: `golden` against gguf-py, `import` of small whole files, `hostile` ones.

mod golden;
mod hostile;
mod import;
mod writer;
