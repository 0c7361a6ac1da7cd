//! tahoefs: a Tahoe-LAFS client whose main job is a FUSE mount.
//!
//! The library is a stack of rooms; a room imports only from the rooms below it (`docs/ARCHITECTURE.md` has the
//! table and `tests/it/tidy.rs` enforces it). Formats and protocol follow Tahoe-LAFS 1.20, byte for byte.

pub mod cache;
pub mod cap;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod control;
pub mod crypto;
pub mod dirnode;
pub mod fs;
pub mod fuse;
pub mod grid;
pub mod immutable;
pub mod journal;
pub mod merkle;
pub mod mutable;
pub mod node;
pub mod share;
pub mod storage;
pub mod util;
pub mod writeback;
