//! Share hash chains: what a share carries of the tree over all shares (PROTOCOL 5.3, 6.1).
//!
//! Each entry is a node number, 2 bytes, and its hash. An immutable share carries the siblings on the way from its
//! leaf to the root and the leaf itself; a mutable one the siblings alone.

use super::BadShare;
use crate::crypto::Hash;
use crate::merkle::{IncompleteTree, node_count};

/// Bytes of one entry.
pub const ENTRY_LEN: usize = 34;

/// Entries of an immutable share's chain when there are `total` shares.
pub fn immutable_entries(total: u32) -> u32 {
    u64::from(total.max(1)).next_power_of_two().ilog2() + 1
}

/// The nodes of an immutable share's chain, in the order in which the reference writes them.
///
/// The order is that of a CPython set of small integers into which the siblings, from the leaf up, and then the leaf
/// were put; none for a share that is none of `total`. No reader depends on it and no hash covers it; it makes shares equal to the reference's byte for byte.
pub fn immutable_order(total: u32, share: u32) -> Vec<usize> {
    let tree = IncompleteTree::new(total as usize);
    let mut nodes = tree.needed_for(share as usize, false);
    nodes.reverse();
    if share < total {
        nodes.push(tree.first_leaf() + share as usize);
    }
    set_order(&nodes)
}

/// The nodes of a mutable share's chain: ascending, without the leaf; none for a share that is none of `total`.
pub fn mutable_order(total: u32, share: u32) -> Vec<usize> {
    IncompleteTree::new(total as usize).needed_for(share as usize, false)
}

/// Encodes the entries of `order`, whose hashes are taken from all nodes of the share hash tree.
///
/// Fails when a node is not in the tree or its number does not fit into 2 bytes.
pub fn encode(order: &[usize], tree: &[Hash]) -> Result<Vec<u8>, BadShare> {
    let mut out = Vec::with_capacity(order.len() * ENTRY_LEN);
    for &node in order {
        let number = u16::try_from(node).map_err(|_| BadShare::TooLarge("node number"))?;
        let hash = tree.get(node).ok_or(BadShare::Field("node number"))?;
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(hash);
    }
    Ok(out)
}

/// Decodes a chain: its entries in the order in which they stand.
///
/// Fails when the length is not a whole number of entries, when there are more of them than nodes in the tree over
/// `total` shares, or when one is no node of that tree.
pub fn decode(bytes: &[u8], total: u32) -> Result<Vec<(usize, Hash)>, BadShare> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_LEN>();
    let nodes = node_count(total as usize);
    if !rest.is_empty() || entries.len() > nodes {
        return Err(BadShare::Field("share hash chain"));
    }
    entries
        .iter()
        .map(|entry| {
            let node = usize::from(u16::from_be_bytes([entry[0], entry[1]]));
            let hash = *entry.last_chunk().expect("an entry is longer than a hash");
            if node < nodes { Ok((node, hash)) } else { Err(BadShare::Field("node number in the share hash chain")) }
        })
        .collect()
}

/// The order in which a CPython set gives back distinct small integers that were added in the order of `nodes`:
/// open addressing in 8 slots, that become 32 when three fifths are taken (enough for a tree of 2^17 leaves).
fn set_order(nodes: &[usize]) -> Vec<usize> {
    let mut slots = vec![None; 8];
    for (taken, &node) in nodes.iter().enumerate() {
        insert(&mut slots, node);
        if (taken + 1) * 5 >= (slots.len() - 1) * 3 {
            let mut larger = vec![None; (((taken + 1) * 4) + 1).next_power_of_two()];
            slots.iter().flatten().for_each(|&old| insert(&mut larger, old));
            slots = larger;
        }
    }
    slots.into_iter().flatten().collect()
}

/// Puts a node into the first free slot on its probe sequence; the table always has free slots.
fn insert(slots: &mut [Option<usize>], node: usize) {
    const NEIGHBOURS: usize = 9;
    let mask = slots.len() - 1;
    let (mut perturb, mut at) = (node, node & mask);
    loop {
        let last = if at + NEIGHBOURS <= mask { at + NEIGHBOURS } else { at };
        if let Some(free) = slots[at..=last].iter_mut().find(|slot| slot.is_none()) {
            *free = Some(node);
            return;
        }
        perturb >>= 5;
        at = (at * 5 + 1 + perturb) & mask;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn orders_hold_the_path() {
        assert_eq!(immutable_order(1, 0), [0]);
        assert_eq!(mutable_order(1, 0), [] as [usize; 0]);
        assert_eq!(mutable_order(10, 9), [1, 6, 12, 23]);
        for total in 1..=256 {
            assert_eq!(immutable_order(total, total - 1).len(), immutable_entries(total) as usize);
        }
    }

    #[test]
    fn encodes_what_it_decodes() {
        let tree: Vec<Hash> = (0..31).map(|i| [i; 32]).collect();
        let order = immutable_order(10, 4);
        let bytes = encode(&order, &tree).unwrap();
        let decoded = decode(&bytes, 10).unwrap();
        assert_eq!(decoded, order.iter().map(|&n| (n, tree[n])).collect::<Vec<_>>());
        assert!(decode(&bytes[1..], 10).is_err());
        assert!(decode(&bytes, 8).is_err(), "nodes beyond the tree");
        assert!(encode(&[31], &tree).is_err());
        assert!(decode(&[0; 34 * 2], 1).is_err(), "more entries than nodes");
    }

    proptest! {
        #[test]
        fn decode_never_panics(bytes: Vec<u8>, total: u32) {
            let _ = decode(&bytes, total);
        }
    }
}
