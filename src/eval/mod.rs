//! How good a model is: replies against references, a model's probabilities against what was written, and
//! how sure one may be of either. Layer 4: uses `text`, `model`, `decode`, `seed`.
//!
//! Every mean comes with an interval ([`bootstrap`]); what a metric means is said where it is computed.

pub mod bootstrap;
pub mod calibration;
pub mod exposure;
pub mod judge;
pub mod per_row;
pub mod perplexity;
pub mod replies;
pub mod rouge;
pub mod stem;
pub mod text_metrics;
