//! Servers of happiness and placement against the reference's answers.

use std::collections::{BTreeMap, BTreeSet};

use tahoefs::grid::placement::{Candidate, happiness, place};

use crate::vectors::{items, load, number, text};

#[test]
fn happiness_of_given_layouts() {
    for case in items(&load("happiness.json")["servers_of_happiness"]) {
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut map: BTreeMap<u32, BTreeSet<usize>> = BTreeMap::new();
        for (share, servers) in case["share_to_servers"].as_object().unwrap() {
            for server in servers.as_array().unwrap() {
                let next = names.len();
                let server = *names.entry(text(server).to_owned()).or_insert(next);
                map.entry(share.parse().unwrap()).or_default().insert(server);
            }
        }
        assert_eq!(happiness(&map) as u64, number(&case["happiness"]), "{case}");
    }
}

#[test]
fn placements_are_as_happy_as_the_references() {
    for case in items(&load("happiness.json")["placements"]["cases"]) {
        let held = |name: &str| -> BTreeSet<u32> {
            let shares = case["already_held"].get(name).and_then(|v| v.as_array().cloned()).unwrap_or_default();
            shares.iter().map(|n| number(n) as u32).collect()
        };
        let mut candidates: Vec<Candidate> = (0..number(&case["writable_peers"]))
            .map(|n| Candidate { writable: true, holds: held(&format!("p{n}")) })
            .collect();
        for name in case["readonly_peers"].as_array().unwrap() {
            candidates.push(Candidate { writable: false, holds: held(text(name)) });
        }
        let total = number(&case["total_shares"]) as u32;
        let placed = place(&candidates, total);
        assert_eq!(placed.len(), total as usize, "{case}");
        let map = placed.iter().map(|(&share, &server)| (share, BTreeSet::from([server]))).collect();
        assert_eq!(happiness(&map) as u64, number(&case["happiness"]), "{case}: {placed:?}");
        for (share, server) in placed {
            assert!(candidates[server].writable || candidates[server].holds.contains(&share));
        }
    }
}
