//! Merkle hash trees: whole ones for writers, partly known ones for readers (PROTOCOL 1.3).
//!
//! Nodes are numbered breadth first: the root is 0, the children of `i` are `2i + 1` and `2i + 2`. The leaves are
//! padded to a power of two with hashes of their own.

mod incomplete;
mod whole;

pub use incomplete::{BadHashes, IncompleteTree};
pub use whole::HashTree;

use crate::crypto::Hash;
use crate::crypto::hash::{Tag, tagged, tagged_pair};

/// Leaves of the padded tree over `leaf_count`: the next power of two, at least one.
///
/// Counts beyond the largest power of two, which no memory holds, are cut to it.
fn width(leaf_count: usize) -> usize {
    leaf_count.max(1).checked_next_power_of_two().unwrap_or(1 << (usize::BITS - 2)).min(1 << (usize::BITS - 2))
}

/// Nodes of the tree over `leaf_count` leaves: `2W - 1`, where `W` is the leaf count padded to a power of two.
pub fn node_count(leaf_count: usize) -> usize {
    2 * width(leaf_count) - 1
}

/// What stands where the padding has its leaf number `index`.
fn empty_leaf(index: usize) -> Hash {
    tagged(Tag::MERKLE_EMPTY_LEAF, index.to_string().as_bytes())
}

/// The parent of two siblings.
fn pair(left: &Hash, right: &Hash) -> Hash {
    tagged_pair(Tag::MERKLE_NODE, left, right)
}

/// The other child of the same parent; `node` is not the root.
fn sibling(node: usize) -> usize {
    if node.is_multiple_of(2) { node - 1 } else { node + 1 }
}

fn parent(node: usize) -> usize {
    (node - 1) / 2
}

/// The nodes that prove leaf number `leaf` of `leaf_count`, in ascending order: the siblings on the way to the root,
/// which is not among them, and the leaf itself if asked for. None for a leaf that the tree does not have.
fn chain(leaf_count: usize, leaf: usize, include_leaf: bool) -> Vec<usize> {
    let width = width(leaf_count);
    if leaf >= leaf_count.min(width) {
        return Vec::new();
    }
    let mut node = width - 1 + leaf;
    let mut nodes = Vec::new();
    if include_leaf {
        nodes.push(node);
    }
    while node > 0 {
        nodes.push(sibling(node));
        node = parent(node);
    }
    nodes.sort_unstable();
    nodes
}
