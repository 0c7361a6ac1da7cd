//! Real mounts of the embedded grid, through the kernel, with the programs people use.

mod basics;
mod databases;
mod dice;
mod differential;
mod faults;
mod fsx;
mod mutable;
mod offline;
mod programs;
mod ranges;
mod refusals;
mod rsync;
mod service;
mod several;
pub mod world;
mod xattrs;
