//! Real mounts of the embedded grid, through the kernel, with the programs people use.

mod basics;
mod faults;
mod mutable;
mod offline;
mod refusals;
mod rsync;
mod service;
mod several;
pub mod world;
