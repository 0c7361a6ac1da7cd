//! Which nodes of a stored hash tree are fetched.

use std::ops::Range;

use crate::merkle::IncompleteTree;

/// Leaves that are fetched together: they stand beside each other in a share, and those who read one segment mostly
/// read the next.
const GROUP: usize = 64;

/// The nodes to fetch so that `leaf` can be proven: the leaves around it in one run, and the siblings on the way from
/// them to what is known. Empty when the leaf is known already.
pub(super) fn missing(tree: &IncompleteTree, leaf: usize) -> Vec<Range<usize>> {
    if tree.leaf(leaf).is_some() {
        return Vec::new();
    }
    let first = tree.first_leaf();
    let width = first + 1;
    let span = GROUP.min(width);
    let start = first + leaf - leaf % span;
    let mut nodes: Vec<Range<usize>> = Vec::new();
    nodes.push(start..start + span);
    let mut node = start;
    for _ in 0..span.ilog2() {
        node = (node - 1) / 2;
    }
    while node > 0 && tree.get(node).is_none() {
        let sibling = if node % 2 == 1 { node + 1 } else { node - 1 };
        if tree.get(sibling).is_none() {
            nodes.push(sibling..sibling + 1);
        }
        node = (node - 1) / 2;
    }
    nodes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::Hash;
    use crate::merkle::HashTree;

    proptest! {
        #[test]
        fn what_is_fetched_proves_the_leaf(leaves in 1usize..400, reads in proptest::collection::vec(0usize..400, 1..6)) {
            let hashes: Vec<Hash> = (0..leaves).map(|i| [(i % 251) as u8; 32]).collect();
            let whole = HashTree::new(hashes.clone());
            let mut tree = IncompleteTree::new(leaves);
            tree.set_root(whole.root());
            for leaf in reads.into_iter().map(|leaf| leaf % leaves) {
                let nodes: Vec<(usize, Hash)> =
                    missing(&tree, leaf).into_iter().flatten().map(|node| (node, whole.nodes()[node])).collect();
                prop_assert!(nodes.len() <= GROUP + 3);
                tree.add(nodes, []).unwrap();
                prop_assert_eq!(tree.leaf(leaf), Some(hashes[leaf]));
                prop_assert!(missing(&tree, leaf).is_empty());
            }
        }
    }
}
