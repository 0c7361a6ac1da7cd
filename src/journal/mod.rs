//! What is kept on the local disk until the grid has it: staging files, and the index of root attributes.

mod extents;
mod index;
mod staged;

pub use index::Index;
pub use staged::{Staged, Staging};
