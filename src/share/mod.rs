//! Bytes of shares and of the containers they are kept in: pure parse and build.
//!
//! Everything here takes hostile bytes: arithmetic is checked, what is allocated is bounded by what was given, and no
//! input panics. What a parse accepts is only well formed; hashes and signatures say whether it is true.

pub mod chain;
pub mod container;
mod encoding;
pub mod immutable;
pub mod lease;
pub mod mdmf;
mod mutable;
pub mod sdmf;
pub mod ueb;

use std::ops::Range;

pub use encoding::{DEFAULT_MAX_SEGMENT_SIZE, Encoding};
pub use immutable::Layout;
pub use mutable::{MutableHeader, Offsets, Version};
pub use sdmf::SdmfShare;
pub use ueb::Ueb;

use crate::crypto::Hash;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadShare {
    /// There are fewer bytes than the structure needs; `needed` counts from its start.
    #[error("cut short: {needed} bytes needed, {got} there")]
    Truncated {
        /// Bytes that would have sufficed.
        needed: u64,
        /// Bytes that were there.
        got: u64,
    },
    /// A version or magic that is not known.
    #[error("unknown version of a {0}")]
    Version(&'static str),
    /// A field that cannot be.
    #[error("malformed field {0}")]
    Field(&'static str),
    /// Regions that overlap or lie before each other, or numbers that exceed 64 bits.
    #[error("offsets out of bounds: {0}")]
    Offsets(&'static str),
    /// A number that the format has no room for.
    #[error("too large for the format: {0}")]
    TooLarge(&'static str),
    /// A field that contradicts the capability or another field.
    #[error("inconsistent field {0}")]
    Inconsistent(&'static str),
}

/// The bytes of `range`, if all of them are there.
pub fn slice<'a>(bytes: &'a [u8], range: &Range<u64>) -> Result<&'a [u8], BadShare> {
    let short = || BadShare::Truncated { needed: range.end, got: bytes.len() as u64 };
    let start = usize::try_from(range.start).map_err(|_| short())?;
    let end = usize::try_from(range.end).map_err(|_| short())?;
    bytes.get(start..end).ok_or_else(short)
}

/// An array of 32-byte hashes, as block hash trees are stored; its length must be a multiple of 32.
pub fn decode_hashes(bytes: &[u8]) -> Result<Vec<Hash>, BadShare> {
    let (hashes, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() { Ok(hashes.to_vec()) } else { Err(BadShare::Field("array of hashes")) }
}

/// Nodes of a hash tree over `leaves` leaves: `2W - 1`, with W the next power of two, at least 1 (PROTOCOL 1.3).
pub fn tree_nodes(leaves: u64) -> Option<u64> {
    leaves.max(1).checked_next_power_of_two()?.checked_mul(2).map(|twice| twice - 1)
}

/// Takes fixed-size big-endian fields off the front of bytes.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadShare> {
        let rest = &self.bytes[self.at..];
        let field = rest
            .first_chunk::<N>()
            .ok_or(BadShare::Truncated { needed: (self.at + N) as u64, got: self.bytes.len() as u64 })?;
        self.at += N;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, BadShare> {
        Ok(self.take::<1>()?[0])
    }

    fn u32(&mut self) -> Result<u32, BadShare> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, BadShare> {
        Ok(u64::from_be_bytes(self.take()?))
    }
}
