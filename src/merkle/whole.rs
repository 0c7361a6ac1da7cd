//! The whole tree over known leaves.

use super::{chain, empty_leaf, node_count, pair, width};
use crate::crypto::Hash;

/// A hash tree of which every node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashTree {
    nodes: Vec<Hash>,
    leaf_count: usize,
}

impl HashTree {
    /// The tree over `leaves`, padded to a power of two.
    pub fn new(leaves: Vec<Hash>) -> HashTree {
        let leaf_count = leaves.len();
        let width = width(leaf_count);
        let mut nodes = vec![[0; 32]; node_count(leaf_count)];
        let first = width - 1;
        nodes[first..first + leaf_count].copy_from_slice(&leaves);
        for (index, node) in nodes[first..].iter_mut().enumerate().skip(leaf_count) {
            *node = empty_leaf(index);
        }
        for node in (0..first).rev() {
            nodes[node] = pair(&nodes[2 * node + 1], &nodes[2 * node + 2]);
        }
        HashTree { nodes, leaf_count }
    }

    /// Node 0.
    pub fn root(&self) -> Hash {
        self.nodes[0]
    }

    /// All nodes in the order of their numbers.
    pub fn nodes(&self) -> &[Hash] {
        &self.nodes
    }

    /// Leaves that were given, padding apart.
    pub fn leaf_count(&self) -> usize {
        self.leaf_count
    }

    /// The node with this number, if the tree has it.
    pub fn get(&self, node: usize) -> Option<Hash> {
        self.nodes.get(node).copied()
    }

    /// The numbers of the nodes that prove `leaf` against the root, ascending: the siblings on its way to the root,
    /// which is not among them, and its own node with `include_leaf`. Empty for a leaf that the tree does not have.
    pub fn needed_for(&self, leaf: usize, include_leaf: bool) -> Vec<usize> {
        chain(self.leaf_count, leaf, include_leaf)
    }
}
