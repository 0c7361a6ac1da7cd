//! What every room leans on: text encodings, the clock, randomness, the call context and bounded CPU work.

pub mod base32;
mod clock;
mod cpu;
mod crash;
mod cx;
pub mod netstring;
mod operations;
mod ranges;
mod replace;
mod rng;
mod single_flight;
mod space;
mod utc;

pub use clock::Clock;
pub use cpu::{Cpu, at_leisure};
pub use crash::crash_point;
pub use cx::{Cx, MemoryPermit, Priority, Stopped};
pub use operations::{Operation, OperationKind, OperationState, OperationSums, Operations, Outcome};
pub use ranges::merged;
pub use replace::{Survives, replace_file};
pub use rng::Rng;
pub use single_flight::SingleFlight;
pub use space::free_space;
pub use utc::Utc;
