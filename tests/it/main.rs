//! The integration tests: one binary, one module for each topic.

#![allow(clippy::disallowed_methods, reason = "tests compare with the real clock")]

mod caps;
mod chain_order;
mod merkle;
mod rsa_keys;
mod storage;
mod vectors;
