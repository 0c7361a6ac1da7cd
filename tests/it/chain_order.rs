//! The order of share hash chains in immutable shares.

use tahoefs::share::chain;

use crate::vectors::{items, load, number};

#[test]
fn nodes_stand_as_the_reference_writes_them() {
    let answers = load("hashes.json");
    let by_total = &answers["share_hash_chain_node_order_in_chk_shares"]["by_total_shares_then_shnum"];
    let mut seen = 0;
    for (total, by_share) in by_total.as_object().unwrap() {
        for (share, nodes) in by_share.as_object().unwrap() {
            let expected: Vec<usize> = items(nodes).iter().map(|node| number(node) as usize).collect();
            let (total, share) = (total.parse().unwrap(), share.parse().unwrap());
            assert_eq!(chain::immutable_order(total, share), expected, "share {share} of {total}");
            seen += 1;
        }
    }
    assert_eq!(seen, 96);
}
