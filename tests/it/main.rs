//! The integration tests: one binary, one module for each topic.

#![allow(clippy::disallowed_methods, reason = "tests compare with the real clock")]

mod adopted;
mod announced;
mod base32;
mod broker;
mod caps;
mod chain_order;
mod chk_shares;
mod chk_vectors;
mod cli;
mod cli_copy;
mod config;
mod containers;
mod convergence;
mod dirnode;
mod fs;
mod gbs;
mod grids;
mod happiness;
mod hashes;
mod immutable_download;
mod immutable_upload;
mod interop;
mod journal;
mod lease;
mod local_store;
mod mdmf_shares;
mod mdmf_write;
mod merkle;
mod mount;
mod mutable;
mod mutable_faults;
mod mutable_happiness;
mod mutable_vectors;
mod packaging;
mod rsa_keys;
mod sdmf_shares;
mod storage;
mod tahoe;
mod testgrid;
mod tidy;
mod ueb;
mod util;
mod vectors;
mod zfec;
