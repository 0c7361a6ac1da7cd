//! Containers of a storage server, step by step as the vectors build them.

use serde_json::Value;
use tahoefs::crypto::secrets::LeaseSecrets;
use tahoefs::crypto::{LeaseSecret, WriteEnabler};
use tahoefs::share::container::{ImmutableContainer, MutableContainer, is_mutable};
use tahoefs::share::lease::{self, Lease, LeaseWrite, Schema};

use crate::vectors::{hex, hex_array, items, load, number, text};

/// The file after each step.
fn files(container: &Value) -> Vec<Vec<u8>> {
    items(&container["steps"]).iter().map(|step| hex(&step["file_hex"])).collect()
}

fn schema(container: &Value) -> Schema {
    match number(&container["schema_version"]) {
        1 => Schema::V1,
        _ => Schema::V2,
    }
}

/// Lease number `i` of the vectors as a container keeps it.
fn lease(answers: &Value, i: usize, schema: Schema, owner: u32, node_id: [u8; 20]) -> Lease {
    let lease = &items(&answers["leases"])[i];
    assert_eq!(number(&lease["i"]), i as u64);
    let secrets = LeaseSecrets {
        renew: LeaseSecret::new(hex_array(&lease["renew"])),
        cancel: LeaseSecret::new(hex_array(&lease["cancel"])),
    };
    Lease::new(schema, &secrets, owner, number(&lease["expiration"]) as u32, node_id)
}

fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset as usize..end].copy_from_slice(bytes);
}

#[test]
fn immutable_containers_grow_as_the_reference_s() {
    let answers = load("containers.json");
    assert_eq!(items(&answers["immutable"]).len(), 2);
    for container in items(&answers["immutable"]) {
        let (schema, files) = (schema(container), files(container));
        let header = ImmutableContainer { schema, ..ImmutableContainer::new(20) };
        let mut file = header.to_bytes().to_vec();
        assert_eq!(file, files[0]);
        assert!(!is_mutable(&file));

        let with_lease = |file: &mut Vec<u8>, data_len: u64, lease: Lease| {
            let mut header = ImmutableContainer::parse(file).unwrap();
            let records = header.parse_leases(file.get(12 + data_len as usize..).unwrap_or_default()).unwrap();
            let Some(LeaseWrite { index, record }) = lease::add_or_renew_immutable(&records, lease) else {
                return false;
            };
            let offset = ImmutableContainer::lease_offset(data_len, index).unwrap();
            put(file, offset, &record.to_immutable());
            header.lease_count = header.lease_count.max(index as u32 + 1);
            put(file, 0, &header.to_bytes());
            true
        };
        assert!(with_lease(&mut file, 20, lease(&answers, 0, schema, 0, [0; 20])));
        assert_eq!(file, files[1]);
        put(&mut file, ImmutableContainer::DATA_OFFSET + 10, b"world");
        assert_eq!(file, files[2]);
        put(&mut file, ImmutableContainer::DATA_OFFSET, b"hello");
        assert_eq!(file, files[3]);

        let data_len = |file: &[u8]| ImmutableContainer::parse(file).unwrap().data_len(file.len() as u64).unwrap();
        assert_eq!(data_len(&file), 20);
        assert!(with_lease(&mut file, 20, lease(&answers, 1, schema, 0, [0; 20])));
        assert_eq!(file, files[4]);
        let until = |expiration| Lease { expiration, ..lease(&answers, 0, schema, 1, [0; 20]) };
        assert!(with_lease(&mut file, 20, until(1_800_000_000)));
        assert_eq!(file, files[5]);
        assert!(!with_lease(&mut file, 20, until(1_600_000_000)));
        assert_eq!(file, files[6]);

        let header = ImmutableContainer::parse(&files[7]).unwrap();
        assert_eq!(header.lease_count, 1);
        assert_eq!(data_len(&files[7]), number(&container["get_length"]));
        let left = header.parse_leases(&files[7][32..]).unwrap();
        assert_eq!(left, [lease(&answers, 1, schema, 0, [0; 20])]);
    }
}

/// All leases of a mutable container, those in the header first.
fn leases(file: &[u8]) -> Vec<Lease> {
    let header = MutableContainer::parse(file).unwrap();
    let extra = MutableContainer::parse_extra(&file[header.extra_offset as usize..]).unwrap();
    header.slots.into_iter().chain(extra).collect()
}

/// Writes the leases back, as many as there are.
fn put_leases(file: &mut Vec<u8>, leases: &[Lease]) {
    let mut header = MutableContainer::parse(file).unwrap();
    let (slots, extra) = leases.split_at(MutableContainer::SLOTS);
    header.slots = slots.to_vec().try_into().unwrap();
    put(file, 0, &header.to_bytes());
    put(file, header.extra_offset, &MutableContainer::extra_to_bytes(extra).unwrap());
}

fn add_lease(file: &mut Vec<u8>, lease: Lease) {
    let mut all = leases(file);
    let write = lease::add_or_renew_mutable(&all, lease).unwrap();
    let offset = MutableContainer::parse(file).unwrap().lease_offset(write.index).unwrap();
    let record = write.record.to_mutable();
    if write.index == all.len() {
        all.push(write.record);
    } else {
        all[write.index] = write.record;
    }
    put_leases(file, &all);
    assert_eq!(file[offset as usize..][..record.len()], record);
}

/// Writes data as a server does, moving the extra leases away first.
fn write_data(file: &mut Vec<u8>, offset: u64, data: &[u8], new_len: Option<u64>) {
    let mut header = MutableContainer::parse(file).unwrap();
    let all = leases(file);
    let end = offset + data.len() as u64;
    if let Some(moved) = header.extra_offset_for(end).unwrap() {
        file[header.extra_offset as usize..].fill(0);
        header.extra_offset = moved;
    }
    header.data_len = header.data_len.max(end).min(new_len.unwrap_or(u64::MAX));
    put(file, 0, &header.to_bytes());
    put_leases(file, &all);
    put(file, MutableContainer::DATA_OFFSET + offset, data);
}

#[test]
fn mutable_containers_grow_as_the_reference_s() {
    let answers = load("containers.json");
    assert_eq!(items(&answers["mutable"]).len(), 2);
    for container in items(&answers["mutable"]) {
        let (schema, files) = (schema(container), files(container));
        let node_id = hex_array(&container["nodeid"]);
        let enabler = WriteEnabler::new(hex_array(&container["write_enabler"]));
        let header = MutableContainer { schema, ..MutableContainer::new(node_id, enabler.clone()) };
        let mut file = header.to_bytes();
        file.extend(MutableContainer::extra_to_bytes(&[]).unwrap());
        assert_eq!(file, files[0]);
        assert!(is_mutable(&file));

        let new_lease = |i| lease(&answers, i, schema, 1, node_id);
        write_data(&mut file, 0, b"0123456789", None);
        assert_eq!(file, files[1]);
        add_lease(&mut file, new_lease(0));
        assert_eq!(file, files[2]);
        write_data(&mut file, 15, b"ab", None);
        assert_eq!(file, files[3]);
        write_data(&mut file, 0, b"xy", Some(12));
        assert_eq!(file, files[4]);
        assert_eq!(MutableContainer::parse(&file).unwrap().room(), 17);
        (1..6).for_each(|i| add_lease(&mut file, new_lease(i)));
        assert_eq!(file, files[5]);
        write_data(&mut file, 0, &[b'Q'; 30], None);
        assert_eq!(file, files[6]);
        let mut all = leases(&file);
        assert_eq!(all, [0, 1, 2, 3, 4, 5].map(new_lease));
        all[2] = Lease::cancelled(schema);
        put_leases(&mut file, &all);
        assert_eq!(file, files[7], "{}", text(&container["steps"][7]["step"]));
        add_lease(&mut file, new_lease(6));
        assert_eq!(file, files[8]);
        add_lease(&mut file, Lease { expiration: 1_800_000_000, ..new_lease(5) });
        assert_eq!(file, files[9]);

        let header = MutableContainer::parse(&file).unwrap();
        assert_eq!((header.schema, header.node_id, header.write_enabler), (schema, node_id, enabler));
        assert_eq!(header.data_len, number(&container["data_length"]));
    }
}

#[test]
fn a_share_of_a_server_is_read() {
    let server = &load("containers.json")["server_directory"];
    let file = hex(&server["share_0_file_hex"]);
    let header = ImmutableContainer::parse(&file).unwrap();
    assert_eq!(header.data_len(file.len() as u64).unwrap(), 8);
    assert_eq!(file[12..20], *b"12345678");
    let secrets = LeaseSecrets {
        renew: LeaseSecret::new(hex_array(&server["renew"])),
        cancel: LeaseSecret::new(hex_array(&server["cancel"])),
    };
    let until = lease::expiration(number(&server["clock"]) as i64);
    let expected = Lease::new(header.schema, &secrets, 0, until, [0; 20]);
    assert_eq!(header.parse_leases(&file[20..]).unwrap(), [expected]);
}

#[test]
fn hashed_secrets_are_the_reference_s() {
    for case in items(&load("lease.json")["cases"]) {
        let stored = |secret: &str| Schema::V2.store(&LeaseSecret::new(hex_array(&case[secret])));
        let hashed = &case["stored_in_v2_container"];
        let expected = |key| lease::StoredSecret::from_bytes(hex_array(&hashed[key]));
        assert!(stored("bucket_renewal") == expected("renew_blake2b_32"));
        assert!(stored("bucket_cancel") == expected("cancel_blake2b_32"));
    }
}
