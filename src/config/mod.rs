//! The node directory and what stands in it.

pub mod identity;
