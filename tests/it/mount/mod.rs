//! Real mounts of the embedded grid, through the kernel, with the programs people use.

mod basics;
mod faults;
mod refusals;
mod rsync;
pub mod world;
