//! The integration tests: one binary, one module for each topic.

mod merkle;
mod rsa_keys;
mod vectors;
