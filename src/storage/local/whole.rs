//! Whether an immutable share lacks bytes: all of it is held against its own hashes.

use std::io;
use std::ops::Range;

use super::super::ShareNumber;
use super::containers::ImmutableFile;
use crate::crypto::Hash;
use crate::crypto::hash::{Tag, tagged};
use crate::merkle::{HashTree, IncompleteTree, node_count};
use crate::share::immutable::{Layout, MAX_HEADER_LEN};
use crate::share::{BadShare, Encoding, Ueb, chain};

/// Whether all of the share is there. One that is not of a known format is not judged, unless it begins with zeros.
///
/// Reads all of it. What is lost of a share is lost in whole pages, and each page has bytes that a hash covers or that
/// do not parse as zeros.
pub(super) fn is_whole(file: &ImmutableFile, share: ShareNumber) -> io::Result<bool> {
    let header = file.read(0, MAX_HEADER_LEN)?;
    match Layout::parse(&header) {
        Ok(layout) => verify(file, &layout, share),
        Err(BadShare::Version(_)) => Ok(header.iter().take(4).any(|b| *b != 0)),
        Err(_) => Ok(false),
    }
}

fn verify(file: &ImmutableFile, layout: &Layout, share: ShareNumber) -> io::Result<bool> {
    let Some(field) = exactly(file, layout.ueb_len_field())? else { return Ok(false) };
    let Ok(range) = layout.ueb_range(&field) else { return Ok(false) };
    let Some(block) = exactly(file, range)? else { return Ok(false) };
    let Ok(ueb) = Ueb::parse(&block) else { return Ok(false) };
    let (Some(needed), Some(total), Some(size)) = (ueb.needed_shares, ueb.total_shares, ueb.size) else {
        return Ok(false);
    };
    if ueb.check_against(needed, total, size).is_err() {
        return Ok(false);
    }
    let Ok(encoding) = ueb.encoding(size, needed) else { return Ok(false) };
    let Some(nodes) = tree_len(&encoding) else { return Ok(false) };
    let hashes = layout.block_hashes();
    if hashes.end - hashes.start != nodes || layout.data > hashes.start {
        return Ok(false);
    }
    let end = layout.crypttext_hash_tree.saturating_add(nodes);
    let Some(crypttext) = exactly(file, layout.crypttext_hash_tree..end)? else { return Ok(false) };
    let Some(blocks) = exactly(file, hashes)? else { return Ok(false) };
    let Some(chain) = exactly(file, layout.share_hashes())? else { return Ok(false) };

    let (crypttext, first) = (hashes_of(&crypttext), IncompleteTree::new(encoding.num_segments as usize).first_leaf());
    let leaves = crypttext.iter().skip(first).take(encoding.num_segments as usize).copied().collect();
    let tree = HashTree::new(leaves);
    if tree.nodes() != crypttext || tree.root() != ueb.crypttext_root_hash {
        return Ok(false);
    }
    let mut leaves = Vec::new();
    for segment in 0..encoding.num_segments {
        let Some(range) = layout.block_range(&encoding, segment) else { return Ok(false) };
        let Some(block) = exactly(file, range)? else { return Ok(false) };
        leaves.push(tagged(Tag::BLOCK, &block));
    }
    let tree = HashTree::new(leaves);
    let Ok(chain) = chain::decode(&chain, total) else { return Ok(false) };
    let mut all = IncompleteTree::new(total as usize);
    all.set_root(ueb.share_root_hash);
    Ok(tree.nodes() == hashes_of(&blocks) && all.add(chain, [(share as usize, tree.root())]).is_ok())
}

/// Bytes of a stored tree over the segments.
fn tree_len(encoding: &Encoding) -> Option<u64> {
    let segments = usize::try_from(encoding.num_segments).ok()?;
    (node_count(segments) as u64).checked_mul(32)
}

fn hashes_of(bytes: &[u8]) -> Vec<Hash> {
    bytes.as_chunks::<32>().0.to_vec()
}

/// These bytes; `None` where the share ends before.
fn exactly(file: &ImmutableFile, range: Range<u64>) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = range.end.checked_sub(range.start).filter(|_| range.end <= file.data_len()) else {
        return Ok(None);
    };
    let bytes = file.read(range.start, length)?;
    Ok(Some(bytes).filter(|bytes| bytes.len() as u64 == length))
}
