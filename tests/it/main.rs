//! The integration tests: one binary, one module for each topic.

mod base32;
mod caps;
mod chain_order;
mod convergence;
mod hashes;
mod lease;
mod merkle;
mod rsa_keys;
mod storage;
mod util;
mod vectors;
