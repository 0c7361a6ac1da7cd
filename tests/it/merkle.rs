//! Merkle trees against the reference's, and what a partly known tree accepts (PROTOCOL 1.3).

use proptest::prelude::*;
use tahoefs::crypto::Hash;
use tahoefs::merkle::{BadHashes, HashTree, IncompleteTree, node_count};

use crate::vectors::{data, hex_array, items, load, number};

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|i| data(&format!("leaf-{i}"), 32).try_into().expect("32 bytes")).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<usize> {
    value.as_array().expect("an array").iter().map(|n| number(n) as usize).collect()
}

#[test]
fn trees_are_the_references() {
    for known in items(&load("hashes.json")["merkle"]["trees"]) {
        let count = number(&known["leaves"]) as usize;
        let tree = HashTree::new(leaves(count));
        assert_eq!(tree.leaf_count(), count);
        assert_eq!(tree.root(), hex_array(&known["root"]));
        assert_eq!(tree.nodes().len() as u64, number(&known["total_nodes"]));
        assert_eq!(node_count(count) as u64, number(&known["total_nodes"]));
        assert_eq!(IncompleteTree::new(count).first_leaf() as u64, number(&known["first_leaf_num"]));
        if let Some(nodes) = known.get("nodes") {
            let nodes: Vec<Hash> = items(nodes).iter().map(hex_array).collect();
            assert_eq!(tree.nodes(), nodes);
        }
        for (leaf, needed) in known["needed_hashes"].as_object().expect("an object") {
            let leaf: usize = leaf.parse().expect("a leaf number");
            assert_eq!(tree.needed_for(leaf, false), numbers(&needed["without_leaf_sorted"]));
            assert_eq!(tree.needed_for(leaf, true), numbers(&needed["with_leaf_sorted"]));
            let mut incomplete = IncompleteTree::new(count);
            assert_eq!(incomplete.needed_for(leaf, true), numbers(&needed["with_leaf_sorted"]));
            incomplete.set_root(tree.root());
            assert_eq!(incomplete.needed_for(leaf, false), numbers(&needed["without_leaf_sorted"]));
        }
    }
}

#[test]
fn a_tree_of_no_leaves_is_one_empty_leaf() {
    let known = &load("hashes.json")["merkle"];
    let tree = HashTree::new(Vec::new());
    assert_eq!(tree.nodes(), [hex_array(&known["tree_of_zero_leaves"]["nodes"][0])]);
    assert_eq!(tree.root(), hex_array(&items(&known["empty_leaf_hash"])[0]["result"]));
    let mut incomplete = IncompleteTree::new(0);
    incomplete.set_root(tree.root());
    assert_eq!(incomplete.needed_for(0, true), Vec::<usize>::new());
    assert_eq!(incomplete.add([(0, tree.root())], []), Ok(()));
    assert_eq!(incomplete.leaf(0), None);
}

#[test]
fn empty_leaves_and_pairs_are_the_references() {
    let known = &load("hashes.json")["merkle"];
    let mut seen = 0;
    for empty in items(&known["empty_leaf_hash"]) {
        // A tree of `index` leaves is padded from that number on, if at all.
        let index = number(&empty["i"]) as usize;
        let tree = HashTree::new(leaves(index));
        if let Some(padding) = tree.get(tree.nodes().len() / 2 + index) {
            assert_eq!(padding, hex_array(&empty["result"]), "empty leaf {index}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4, "all but number 1, which pads no tree");
    let pair = &known["pair_hash"];
    assert_eq!(HashTree::new(vec![hex_array(&pair["a"]), hex_array(&pair["b"])]).root(), hex_array(&pair["result"]));
}

#[test]
fn a_single_leaf_is_the_root() {
    let leaf = [7; 32];
    let mut tree = IncompleteTree::new(1);
    assert_eq!(tree.add([], [(0, leaf)]), Err(BadHashes::Unproven(0)));
    tree.set_root(leaf);
    assert_eq!(tree.needed_for(0, true), Vec::<usize>::new());
    assert_eq!(tree.add([(0, leaf)], [(0, leaf)]), Ok(()));
    assert_eq!(tree.add([], [(0, [8; 32])]), Err(BadHashes::Mismatch(0)));
    assert_eq!(tree.leaf(0), Some(leaf));
}

#[test]
fn a_refused_batch_leaves_nothing_behind() {
    let whole = HashTree::new(leaves(5));
    let mut tree = IncompleteTree::new(5);
    tree.set_root(whole.root());
    let chain = |leaf| whole.needed_for(leaf, false).into_iter().map(|n| (n, whole.get(n).expect("a node")));
    let good = leaves(5);
    assert_eq!(tree.add([], [(3, good[3])]), Err(BadHashes::Unproven(10)));
    assert!(matches!(tree.add(chain(3), [(3, good[2])]), Err(BadHashes::Mismatch(_))));
    assert_eq!(tree.needed_for(3, false), whole.needed_for(3, false));
    assert_eq!(tree.leaf(3), None);
    assert_eq!(tree.add(chain(3), [(3, good[3]), (4, [0; 32])]), Err(BadHashes::Unproven(11)));
    assert_eq!(tree.leaf(3), None);
    assert_eq!(tree.add(chain(3), [(3, good[3])]), Ok(()));
    assert_eq!(tree.leaf(3), Some(good[3]));
    assert_eq!(tree.needed_for(2, true), Vec::<usize>::new(), "its sibling's proof gave it away");
    assert_eq!(tree.needed_for(0, true), vec![7, 8]);
    assert_eq!(tree.add([(9, [1; 32])], []), Err(BadHashes::Mismatch(9)));
    assert_eq!(tree.add([(15, good[0])], []), Err(BadHashes::Outside(15)));
    assert_eq!(tree.add([], [(5, good[0])]), Err(BadHashes::Outside(5)));
    assert_eq!(tree.add([(7, good[0]), (7, good[1])], []), Err(BadHashes::Mismatch(7)));
    tree.set_root([9; 32]);
    assert_eq!(tree.leaf(3), None, "another root proves nothing of this");
}

#[test]
fn an_honest_parent_covers_for_no_child() {
    let whole = HashTree::new(leaves(8));
    let node = |n: usize| (n, whole.nodes()[n]);
    for known_before in [false, true] {
        let mut tree = IncompleteTree::new(8);
        tree.set_root(whole.root());
        // Nodes 3 and 4 are the children of 1; 7 and 8 those of 3.
        let mut given = vec![node(1), node(2), node(3), node(4)];
        if known_before {
            assert_eq!(tree.add(given.split_off(0), []), Ok(()));
        }
        given.extend([(7, [1; 32]), (8, [2; 32])]);
        assert_eq!(tree.add(given, []), Err(BadHashes::Mismatch(3)));
        assert_eq!((tree.get(7), tree.get(8)), (None, None));
    }
}

#[test]
fn hostile_counts_take_no_memory() {
    for count in [usize::MAX, usize::MAX - 1, usize::MAX / 2, 1 << 62, (1 << 62) + 1, 1 << 63] {
        let mut tree = IncompleteTree::new(count);
        tree.set_root([0; 32]);
        assert!(tree.needed_for(0, true).len() <= 64);
        assert!(tree.needed_for(usize::MAX, true).len() <= 64);
        for at in [0, 1, usize::MAX, tree.node_count(), tree.node_count() - 1, tree.first_leaf()] {
            assert!(tree.add([(at, [1; 32])], []).is_err());
            assert!(tree.add([], [(at, [1; 32])]).is_err());
            assert_eq!(tree.leaf(at), None);
        }
    }
}

proptest! {
    #[test]
    fn every_leaf_is_proven_by_what_is_needed_for_it(count in 1usize..70, order in prop::collection::vec(any::<usize>(), 1..40)) {
        let leaves = leaves(count);
        let whole = HashTree::new(leaves.clone());
        let mut tree = IncompleteTree::new(count);
        tree.set_root(whole.root());
        for leaf in order.into_iter().map(|i| i % count) {
            let needed = tree.needed_for(leaf, false);
            let chain: Vec<_> = needed.iter().map(|&n| (n, whole.get(n).expect("a node"))).collect();
            if !chain.is_empty() && tree.leaf(leaf).is_none() {
                prop_assert!(tree.clone().add(chain[1..].to_vec(), [(leaf, leaves[leaf])]).is_err(), "one too few");
            }
            prop_assert_eq!(tree.add(chain, [(leaf, leaves[leaf])]), Ok(()));
            prop_assert_eq!(tree.leaf(leaf), Some(leaves[leaf]));
            prop_assert!(tree.needed_for(leaf, true).is_empty());
        }
        for node in 0..tree.node_count() {
            if let Some(hash) = tree.get(node) {
                prop_assert_eq!(Some(hash), whole.get(node));
            }
        }
    }

    #[test]
    fn hostile_hashes_never_enter(
        count in 1usize..40,
        nodes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..20),
        wild in prop::option::of(any::<usize>()),
    ) {
        let whole = HashTree::new(leaves(count));
        let mut tree = IncompleteTree::new(count);
        tree.set_root(whole.root());
        let mut given: Vec<(usize, Hash)> = nodes
            .iter()
            .map(|(at, honest)| {
                let node = at.index(tree.node_count());
                (node, if *honest { whole.nodes()[node] } else { [0xee; 32] })
            })
            .collect();
        given.extend(wild.map(|n| (n, [0xee; 32])));
        let outcome = tree.add(given.clone(), []);
        for node in 0..tree.node_count() {
            if let Some(hash) = tree.get(node) {
                prop_assert_eq!(Some(hash), whole.get(node));
            }
        }
        if given.iter().any(|(n, h)| whole.get(*n) != Some(*h)) {
            prop_assert!(outcome.is_err());
        }
    }
}
