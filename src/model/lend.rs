//! Models whose blocks' weights are not there all the time: somebody brings each block's before it is used.

use crate::error::Result;

/// Who brings the weights of a model's blocks.
pub trait Lender: std::fmt::Debug {
    /// A pass through all blocks begins.
    fn begin(&self) -> Result<()>;

    /// Returns when the weights of a block are there; those of the block before it may be gone then.
    fn lend(&self, block: usize) -> Result<()>;
}
