//! The tree a reader comes to know node by node.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::{chain, node_count, pair, parent, width};
use crate::crypto::Hash;

/// Hashes were refused, and none of them was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHashes {
    /// A node or leaf number that the tree does not have.
    #[error("hash number {0} is outside the tree")]
    Outside(usize),
    /// A hash differs from the one that is known at its place, or from what its children make.
    #[error("hash number {0} is not the one this tree has there")]
    Mismatch(usize),
    /// Nothing is known that would tie this node to the root.
    #[error("hash number {0} cannot be checked: its sibling or the root is missing")]
    Unproven(usize),
}

/// A hash tree of which only proven nodes are known; memory goes by those, not by the size of the tree.
///
/// Every node it holds is the root as it was set, or was proven by hashing up to a node held before.
#[derive(Clone, Debug)]
pub struct IncompleteTree {
    leaf_count: usize,
    known: HashMap<usize, Hash>,
}

impl IncompleteTree {
    /// A tree over `leaf_count` leaves of which nothing is known.
    pub fn new(leaf_count: usize) -> IncompleteTree {
        IncompleteTree { leaf_count: leaf_count.min(width(leaf_count)), known: HashMap::new() }
    }

    /// Sets the root from a trusted place and forgets whatever another root had proven.
    pub fn set_root(&mut self, root: Hash) {
        if self.root() != Some(root) {
            self.known.clear();
            self.known.insert(0, root);
        }
    }

    /// Takes hashes by node number and leaves by leaf number; keeps all that, if the root and what is known prove them.
    ///
    /// # Errors
    /// [`BadHashes`], and then the tree is as it was before.
    pub fn add(
        &mut self,
        nodes: impl IntoIterator<Item = (usize, Hash)>,
        leaves: impl IntoIterator<Item = (usize, Hash)>,
    ) -> Result<(), BadHashes> {
        let total = self.node_count();
        let first = self.first_leaf();
        let numbered = nodes.into_iter().map(|(node, hash)| match node < total {
            true => Ok((node, hash)),
            false => Err(BadHashes::Outside(node)),
        });
        let leaf_count = self.leaf_count;
        let placed = leaves.into_iter().map(|(leaf, hash)| match leaf < leaf_count {
            true => Ok((first + leaf, hash)),
            false => Err(BadHashes::Outside(leaf)),
        });
        let mut added: HashMap<usize, Hash> = HashMap::new();
        for given in numbered.chain(placed) {
            let (node, hash) = given?;
            let here = self.known.get(&node).or_else(|| added.get(&node));
            match here {
                Some(known) if *known != hash => return Err(BadHashes::Mismatch(node)),
                Some(_) => {}
                None => {
                    added.insert(node, hash);
                }
            }
        }
        self.prove(&mut added)?;
        self.known.extend(added);
        Ok(())
    }

    /// Works upward from the deepest new nodes; what their parents must be joins `added`.
    fn prove(&self, added: &mut HashMap<usize, Hash>) -> Result<(), BadHashes> {
        let mut levels: Vec<Vec<usize>> = vec![Vec::new(); depth(self.node_count()) + 1];
        for &node in added.keys() {
            levels[depth(node)].push(node);
        }
        for level in (1..levels.len()).rev() {
            let mut fresh = std::mem::take(&mut levels[level]);
            fresh.sort_unstable();
            // Siblings are neighbours in this order and share one computation.
            fresh.dedup_by_key(|node| parent(*node));
            for node in fresh {
                let up = parent(node);
                let (left, right) = (2 * up + 1, 2 * up + 2);
                let at = |n: usize| self.known.get(&n).or_else(|| added.get(&n));
                let (Some(l), Some(r)) = (at(left), at(right)) else {
                    return Err(BadHashes::Unproven(node));
                };
                let made = pair(l, r);
                match self.known.get(&up) {
                    Some(known) if *known != made => return Err(BadHashes::Mismatch(up)),
                    Some(_) => continue,
                    None => {}
                }
                match added.entry(up) {
                    Entry::Occupied(given) if *given.get() != made => return Err(BadHashes::Mismatch(up)),
                    Entry::Occupied(_) => {}
                    Entry::Vacant(place) => {
                        place.insert(made);
                        levels[level - 1].push(up);
                    }
                }
            }
        }
        match added.contains_key(&0) {
            // A root that was only given or made here is tied to nothing.
            true => Err(BadHashes::Unproven(0)),
            false => Ok(()),
        }
    }

    /// The numbers of the nodes still lacking to prove `leaf`, ascending: those of [`super::HashTree::needed_for`]
    /// that are neither known nor follow from known ones. Empty for a leaf that is not in the tree.
    pub fn needed_for(&self, leaf: usize, include_leaf: bool) -> Vec<usize> {
        let mut needed = chain(self.leaf_count, leaf, include_leaf);
        needed.retain(|node| !self.known.contains_key(node));
        needed
    }

    /// The hash of leaf number `leaf`, once it is proven.
    pub fn leaf(&self, leaf: usize) -> Option<Hash> {
        if leaf >= self.leaf_count {
            return None;
        }
        self.known.get(&(self.first_leaf() + leaf)).copied()
    }

    /// The node with this number, once it is proven.
    pub fn get(&self, node: usize) -> Option<Hash> {
        self.known.get(&node).copied()
    }

    /// The root, once it is set.
    pub fn root(&self) -> Option<Hash> {
        self.get(0)
    }

    /// Leaves, padding apart.
    pub fn leaf_count(&self) -> usize {
        self.leaf_count
    }

    /// Nodes of the whole tree.
    pub fn node_count(&self) -> usize {
        node_count(self.leaf_count)
    }

    /// The number of the first leaf's node.
    pub fn first_leaf(&self) -> usize {
        width(self.leaf_count) - 1
    }
}

/// Levels between the root and `node`.
fn depth(node: usize) -> usize {
    (usize::BITS - 1 - (node + 1).leading_zeros()) as usize
}
