//! The integration tests: one binary, one module for each topic.

mod caps;
mod chain_order;
mod merkle;
mod rsa_keys;
mod storage;
mod vectors;
