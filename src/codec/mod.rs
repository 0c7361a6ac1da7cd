//! Erasure coding, byte for byte that of zfec (PROTOCOL section 4).
//!
//! A segment is cut into k primary blocks of one length; block c belongs to share c. Every byte column of the blocks
//! is a polynomial of degree below k that takes the value of primary block c at the point of share c; the parity block
//! of share j is its value at the point of share j. So any k blocks determine the column, and with it the primaries.
//!
//! Encoding is reed-solomon-erasure's, over a field of our own, whose kernels do the work. Decoding interpolates at the
//! points of the missing primaries: that needs k factors for each of them, where the crate would invert a k x k matrix
//! for every set of shares, keep many of those matrices, and ask for the given blocks as buffers to write.

mod field;
mod kernels;

use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use lru::LruCache;
use reed_solomon_erasure::{Field, ReedSolomon};

use field::ZfecField;

/// The most shares that can be told apart: the field has as many points.
pub const MAX_SHARES: usize = 256;

/// How many codecs are kept. The largest one holds 64 KiB.
const CACHED: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// The bytes of all blocks together that are worked on at a time, so that they stay in the second-level cache while
/// each is visited once for every other.
const WORKING_SET: usize = 256 << 10;

/// k or N is out of range: 1 <= k <= N <= 256 does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed}-of-{total} coding is impossible: it takes 1 <= k <= N <= {MAX_SHARES}")]
pub struct BadParameters {
    /// k, the number of blocks that was to suffice.
    pub needed: usize,
    /// N, the number of blocks that was to be made.
    pub total: usize,
}

/// Why blocks could not be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There are not k primary blocks, or not N - k parity blocks.
    #[error("{given} {kind} blocks were given where {expected} belong")]
    WrongCount {
        /// `"primary"` or `"parity"`.
        kind: &'static str,
        /// How many were given.
        given: usize,
        /// How many belong there.
        expected: usize,
    },
    /// The blocks are not all of one length.
    #[error("the blocks of a segment differ in length")]
    UnequalLengths,
}

/// Why blocks could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer than k blocks were given.
    #[error("{given} blocks were given, {needed} are needed")]
    TooFew {
        /// How many were given.
        given: usize,
        /// k.
        needed: usize,
    },
    /// A share number is N or above.
    #[error("there is no share {0}")]
    NoSuchShare(usize),
    /// A share number was given twice.
    #[error("share {0} was given twice")]
    Repeated(usize),
    /// The blocks are not all of one length.
    #[error("the blocks of a segment differ in length")]
    UnequalLengths,
}

/// The k-of-N code: makes N - k parity blocks from k primary ones, and gets the primaries back from any k of the N.
#[derive(Debug)]
pub struct Codec {
    needed: usize,
    total: usize,
    /// None if N = k: then there is no parity.
    parity: Option<ReedSolomon<ZfecField>>,
}

impl Codec {
    /// The codec for k = `needed` and N = `total`, from a bounded cache.
    ///
    /// Building one takes microseconds for common codes and up to a tenth of a second for the largest, and k and N may
    /// come from a cap that a stranger wrote: call this where the coding itself runs, beside the runtime's workers.
    pub fn get(needed: usize, total: usize) -> Result<Arc<Codec>, BadParameters> {
        static CACHE: LazyLock<Cache> = LazyLock::new(Cache::new);
        let valid = 1 <= needed && needed <= total && total <= MAX_SHARES;
        match valid {
            true => Ok(CACHE.get(needed, total)),
            false => Err(BadParameters { needed, total }),
        }
    }

    /// `needed` and `total` as [`Codec::get`] admits them.
    fn build(needed: usize, total: usize) -> Codec {
        let parity = (needed < total).then(|| {
            ReedSolomon::new(needed, total - needed).expect("1 <= k < N <= 256 is all that the crate asks for")
        });
        Codec { needed, total, parity }
    }

    /// k, the number of blocks that suffice.
    pub fn needed(&self) -> usize {
        self.needed
    }

    /// N, the number of blocks that are made.
    pub fn total(&self) -> usize {
        self.total
    }

    /// The N - k parity blocks, that of share k first, from the k primary blocks, all of one length (which may be 0).
    /// Where segment follows segment [`Codec::encode_into`] is much faster: fresh memory costs more than the coding.
    ///
    /// # Panics
    /// If there are not k primary blocks of one length. Blocks come from cutting a segment, so this is a defect of the
    /// caller; `encode_into` returns an error instead.
    pub fn encode_parity(&self, primary: &[&[u8]]) -> Vec<Vec<u8>> {
        let len = primary.first().map_or(0, |block| block.len());
        let mut parity = vec![vec![0; len]; self.total - self.needed];
        if let Err(error) = self.encode_into(primary, &mut parity) {
            panic!("{error}");
        }
        parity
    }

    /// Writes the N - k parity blocks of the k primary blocks into `parity`, that of share k first. All blocks must
    /// have one length (which may be 0); if they do not, nothing is written.
    pub fn encode_into<B>(&self, primary: &[&[u8]], parity: &mut [B]) -> Result<(), EncodeError>
    where
        B: AsRef<[u8]> + AsMut<[u8]>,
    {
        let count = |kind, given, expected| match given == expected {
            true => Ok(()),
            false => Err(EncodeError::WrongCount { kind, given, expected }),
        };
        count("primary", primary.len(), self.needed)?;
        count("parity", parity.len(), self.total - self.needed)?;
        let len = primary[0].len();
        if primary.iter().any(|block| block.len() != len) || parity.iter().any(|block| block.as_ref().len() != len) {
            return Err(EncodeError::UnequalLengths);
        }
        let Some(coder) = &self.parity else { return Ok(()) };
        for (start, end) in self.chunks(len) {
            let primary: Vec<&[u8]> = primary.iter().map(|block| &block[start..end]).collect();
            let mut parity: Vec<&mut [u8]> = parity.iter_mut().map(|block| &mut block.as_mut()[start..end]).collect();
            coder.encode_sep(&primary, &mut parity).expect("counts and lengths fit and no chunk is empty");
        }
        Ok(())
    }

    /// The k primary blocks in order, from any k or more blocks, each with its share number, in any order. Of more
    /// than k the primaries and then the lowest shares are used.
    pub fn decode(&self, blocks: &[(usize, &[u8])]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let given = self.choose(blocks)?;
        let mut primary = vec![Vec::new(); self.needed];
        for &(share, block) in given.iter().filter(|(share, _)| *share < self.needed) {
            primary[share] = block.to_vec();
        }
        for (share, block) in self.missing(&given) {
            primary[share] = block;
        }
        Ok(primary)
    }

    /// As [`Codec::decode`], but only the primary blocks that were not given, each with its share number, ascending.
    pub fn decode_missing(&self, blocks: &[(usize, &[u8])]) -> Result<Vec<(usize, Vec<u8>)>, DecodeError> {
        Ok(self.missing(&self.choose(blocks)?))
    }

    /// As [`Codec::decode`], but the primary blocks in one piece: the segment with its padding.
    pub fn decode_segment(&self, blocks: &[(usize, &[u8])]) -> Result<Vec<u8>, DecodeError> {
        let given = self.choose(blocks)?;
        let len = given[0].1.len();
        let mut segment = vec![0; len * self.needed];
        if len > 0 {
            let mut wanted = Vec::new();
            for (share, out) in segment.chunks_exact_mut(len).enumerate() {
                match given.binary_search_by_key(&share, |(share, _)| *share) {
                    Ok(i) => out.copy_from_slice(given[i].1),
                    Err(_) => wanted.push((share, out)),
                }
            }
            self.interpolate(&given, &mut wanted);
        }
        Ok(segment)
    }

    /// Checks all `blocks` and picks the k to decode from, by ascending share number, so that as many primaries as
    /// there are come first.
    fn choose<'a>(&self, blocks: &[(usize, &'a [u8])]) -> Result<Vec<(usize, &'a [u8])>, DecodeError> {
        let mut by_share = vec![None; self.total];
        for &(share, block) in blocks {
            let place = by_share.get_mut(share).ok_or(DecodeError::NoSuchShare(share))?;
            if place.replace((share, block)).is_some() {
                return Err(DecodeError::Repeated(share));
            }
        }
        if blocks.len() < self.needed {
            return Err(DecodeError::TooFew { given: blocks.len(), needed: self.needed });
        }
        if blocks.iter().any(|(_, block)| block.len() != blocks[0].1.len()) {
            return Err(DecodeError::UnequalLengths);
        }
        Ok(by_share.into_iter().flatten().take(self.needed).collect())
    }

    /// The primary blocks that are not among `given`, which come from [`Codec::choose`].
    fn missing(&self, given: &[(usize, &[u8])]) -> Vec<(usize, Vec<u8>)> {
        let mut wanted: Vec<(usize, Vec<u8>)> = (0..self.needed)
            .filter(|share| given.binary_search_by_key(share, |(share, _)| *share).is_err())
            .map(|share| (share, vec![0; given[0].1.len()]))
            .collect();
        self.interpolate(given, &mut wanted);
        wanted
    }

    /// Fills the `wanted` blocks, whose shares are not among the k `given` ones; all blocks have one length.
    fn interpolate<B: AsMut<[u8]>>(&self, given: &[(usize, &[u8])], wanted: &mut [(usize, B)]) {
        if wanted.is_empty() {
            return;
        }
        let points: Vec<u8> = given.iter().map(|(share, _)| ZfecField::nth(*share)).collect();
        let targets: Vec<u8> = wanted.iter().map(|(share, _)| ZfecField::nth(*share)).collect();
        let factors = interpolation_factors(&points, &targets);
        for (start, end) in self.chunks(given[0].1.len()) {
            for ((_, out), factors) in wanted.iter_mut().zip(&factors) {
                let out = &mut out.as_mut()[start..end];
                for (i, (&factor, (_, block))) in factors.iter().zip(given).enumerate() {
                    match i {
                        0 => ZfecField::mul_slice(factor, &block[start..end], out),
                        _ => ZfecField::mul_slice_add(factor, &block[start..end], out),
                    }
                }
            }
        }
    }

    /// Cuts `0..len` into pieces of which N fit the working set; none is empty.
    fn chunks(&self, len: usize) -> impl Iterator<Item = (usize, usize)> {
        let size = (WORKING_SET / self.total).next_multiple_of(64);
        (0..len).step_by(size).map(move |start| (start, (start + size).min(len)))
    }
}

/// The codecs used last, by (k, N).
struct Cache(Mutex<LruCache<(usize, usize), Slot>>);

/// A codec that one caller builds while the others who want it wait.
type Slot = Arc<OnceLock<Arc<Codec>>>;

impl Cache {
    fn new() -> Cache {
        Cache(Mutex::new(LruCache::new(CACHED)))
    }

    /// `needed` and `total` as [`Codec::get`] admits them.
    fn get(&self, needed: usize, total: usize) -> Arc<Codec> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.get_or_insert((needed, total), Slot::default))
        };
        Arc::clone(slot.get_or_init(|| Arc::new(Codec::build(needed, total))))
    }
}

/// For each target x the factors f_i with which p(x) = sum of f_i * p(x_i) holds for every polynomial p of degree below
/// the number of points: f_i = product over m != i of (x - x_m) / (x_i - x_m). The points are distinct, and no target
/// is one of them. Subtraction is addition in this field.
fn interpolation_factors(points: &[u8], targets: &[u8]) -> Vec<Vec<u8>> {
    let product = |elements: &mut dyn Iterator<Item = u8>| elements.fold(ZfecField::one(), ZfecField::mul);
    let weights: Vec<u8> = points
        .iter()
        .map(|&point| product(&mut points.iter().filter(|&&m| m != point).map(|&m| ZfecField::add(point, m))))
        .collect();
    let row = |&target: &u8| {
        let all = product(&mut points.iter().map(|&m| ZfecField::add(target, m)));
        let factor = |(&point, &weight)| ZfecField::div(all, ZfecField::mul(weight, ZfecField::add(target, point)));
        points.iter().zip(&weights).map(factor).collect()
    };
    targets.iter().map(row).collect()
}

#[cfg(test)]
mod tests;
