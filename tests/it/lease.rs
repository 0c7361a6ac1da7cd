//! Lease secrets and write enablers (PROTOCOL 2.2, 2.3).

use tahoefs::crypto::secrets::{self, LeaseSecrets};
use tahoefs::crypto::{LeaseSecret, WriteKey};
use tahoefs::util::base32;

use crate::vectors::{hex_array, items, load, text};

#[test]
fn lease_secrets_are_the_references() {
    for case in items(&load("lease.json")["cases"]) {
        let secret: [u8; 32] = hex_array(&case["lease_secret"]);
        assert_eq!(base32::decode_array(text(&case["lease_secret_base32"])), Ok(secret));
        let (index, tub) = (hex_array(&case["storage_index"]), hex_array(&case["tubid"]));
        let made = LeaseSecrets::derive(&LeaseSecret::new(secret), &index, &tub);
        assert_eq!(made.renew.as_bytes(), &hex_array::<32>(&case["bucket_renewal"]));
        assert_eq!(made.cancel.as_bytes(), &hex_array::<32>(&case["bucket_cancel"]));
        assert_eq!(format!("{made:?}"), "LeaseSecrets { renew: LeaseSecret(…), cancel: LeaseSecret(…) }");
    }
}

#[test]
fn write_enablers_are_the_references() {
    for case in items(&load("lease.json")["write_enablers"]) {
        let key = WriteKey::new(hex_array(&case["writekey"]));
        let made = secrets::write_enabler(&key, &hex_array(&case["tubid"]));
        assert_eq!(made.as_bytes(), &hex_array::<32>(&case["write_enabler"]));
    }
}
