//! What announcements are used for: the order of servers (PROTOCOL 1.6) and grid managers' certificates (12.3).

use std::sync::Arc;

use tahoefs::cap::StorageIndex;
use tahoefs::config::{Certificate, GridManagers, Permission};
use tahoefs::crypto::LeaseSecret;
use tahoefs::grid::{Encoding, Grid, Server, ServerInfo};
use tahoefs::storage::memory::MemoryServer;
use tahoefs::util::{Clock, Cpu, Rng};

use crate::vectors::{hex, hex_array, items, load, number, text};

#[test]
fn servers_stand_in_the_references_order() {
    let vectors = load("permutation.json");
    let server = |(i, seed): (usize, &serde_json::Value)| {
        let info = ServerInfo {
            id: i.to_string(),
            nickname: String::new(),
            tub_id: [0; 20],
            permutation_seed: hex(&seed["seed"]),
        };
        Arc::new(Server::new(info, Arc::new(MemoryServer::new())))
    };
    let servers: Vec<_> = items(&vectors["seeds"]).iter().enumerate().map(server).collect();
    let encoding = Encoding { needed: 1, happy: 1, total: 1, max_segment_size: 1 };
    let secret = LeaseSecret::new([0; 32]);
    let grid = Grid::new(servers, encoding, secret, Vec::new(), Clock::system(), Rng::seeded(1), Cpu::with_slots(1));
    let cases = items(&vectors["cases"]);
    assert!(cases.len() > 2);
    for case in cases {
        let si = StorageIndex(hex_array(&case["storage_index"]));
        let order: Vec<String> = grid.permuted(si).iter().map(|s| s.info().id.clone()).collect();
        let expected = items(&case["order_of_seed_indexes"]).iter().map(|i| number(i).to_string());
        assert_eq!(order, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_certificate_of_the_reference_permits_uploads_until_it_expires() {
    let vectors = &load("introducer.json")["grid_manager"];
    let certificate = Certificate {
        text: text(&vectors["certificate_json"]["certificate"]).to_owned(),
        signature: text(&vectors["certificate_json"]["signature"]).to_owned(),
    };
    let server = text(&vectors["valid_for"]).strip_prefix("pub-").expect("a public key");
    let mut managers = GridManagers::default();
    assert!(managers.add(text(&vectors["grid_manager_public_key"])));
    let permission = managers.permission(server, std::slice::from_ref(&certificate));
    assert_eq!(permission, Permission::Until(1_893_456_000));
    let mut other = GridManagers::default();
    assert!(other.add(text(&vectors["valid_for"])));
    assert_eq!(other.permission(server, &[certificate]), Permission::Never);
}
