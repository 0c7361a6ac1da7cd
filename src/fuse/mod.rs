//! The thin FUSE adapter: requests become calls of [`crate::fs::Filesystem`], answers go back.
//!
//! Every callback moves its reply into a task and returns at once, so that one slow request holds up no other.

mod adapter;
mod convert;
mod direct;
mod mounts;
mod notify;
pub mod options;
mod session;

pub use mounts::{FS_TYPE, MountEntry, all_mounts, find_mount};
pub use options::{MetricsAt, MountOptions, OptionError, Owner};
pub use session::{Access, MountError, MountSpec, Mounted, mount};
