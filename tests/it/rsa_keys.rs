//! RSA keys, their exact encodings and their signatures (PROTOCOL 1.5, 2.3).

use tahoefs::crypto::{JournalKey, KeyPool, KeyShelf, SigningKey, VerifyKey, secrets};
use tahoefs::util::{Cpu, Rng};

use crate::vectors::{base64, hex, items, load, number};

#[test]
fn known_keys_keep_their_bytes_and_yield_their_secrets() {
    for key in items(&load("sdmf.json")["keys"]) {
        let der = base64(&key["privkey_pkcs8_der_b64"]);
        assert_eq!(der.len() as u64, number(&key["privkey_pkcs8_der_length"]));
        let signing = SigningKey::from_pkcs8_der(&der).expect("the reference's key loads");
        assert_eq!(signing.pkcs8_der(), der);
        assert_eq!(signing.spki_der(), base64(&key["pubkey_spki_der_b64"]));

        let write_key = secrets::write_key(signing.pkcs8_der());
        assert_eq!(write_key.as_bytes().to_vec(), hex(&key["writekey"]));
        let read_key = secrets::read_key(&write_key);
        assert_eq!(read_key.as_bytes().to_vec(), hex(&key["readkey"]));
        assert_eq!(secrets::mutable_storage_index(&read_key).to_vec(), hex(&key["storage_index"]));
        assert_eq!(secrets::fingerprint(signing.spki_der()).to_vec(), hex(&key["fingerprint"]));
    }
}

#[test]
fn signatures_verify_under_their_key_and_message_alone() {
    let keys = load("sdmf.json");
    let keys: Vec<SigningKey> = items(&keys["keys"])
        .iter()
        .map(|k| SigningKey::from_pkcs8_der(&base64(&k["privkey_pkcs8_der_b64"])).expect("a key"))
        .collect();
    let verify = VerifyKey::from_spki_der(keys[0].spki_der()).expect("a public key");
    let other = VerifyKey::from_spki_der(keys[1].spki_der()).expect("a public key");
    let rng = Rng::seeded(1);
    let first = keys[0].sign(&rng, b"prefix");
    let second = keys[0].sign(&rng, b"prefix");
    assert_eq!(first.len(), 256);
    assert_ne!(first, second, "the salt is random");
    assert!(verify.verify(b"prefix", &first));
    assert!(verify.verify(b"prefix", &second));
    assert!(!verify.verify(b"prefiy", &first));
    assert!(!other.verify(b"prefix", &first));
    let mut bent = first.clone();
    bent[100] ^= 1;
    assert!(!verify.verify(b"prefix", &bent));
    for bad in [&first[..255], &[first.as_slice(), &[0]].concat(), &[], &[0xff; 256], &[0; 256]] {
        assert!(!verify.verify(b"prefix", bad));
    }
}

#[test]
fn the_references_signatures_verify() {
    let known = load("sdmf.json");
    let keys = items(&known["keys"]);
    for case in items(&known["cases"]) {
        let key = base64(&keys[number(&case["key"]) as usize]["pubkey_spki_der_b64"]);
        let verify = VerifyKey::from_spki_der(&key).expect("a public key");
        let header = &case["header_of_share_0"];
        let (mut prefix, signature) = (hex(&header["signed_prefix"]), hex(&header["signature"]));
        assert!(verify.verify(&prefix, &signature));
        prefix[1] ^= 1;
        assert!(!verify.verify(&prefix, &signature));
    }
}

#[test]
fn fresh_keys_have_the_forms_the_reference_writes() {
    let rng = Rng::os();
    let key = SigningKey::generate(&rng);
    assert_eq!(key.spki_der().len(), 294);
    assert!((1214..=1222).contains(&key.pkcs8_der().len()), "{}", key.pkcs8_der().len());
    let again = SigningKey::from_pkcs8_der(key.pkcs8_der()).expect("loads its own form");
    assert_eq!(again.spki_der(), key.spki_der());
    let verify = VerifyKey::from_spki_der(again.spki_der()).expect("a public key");
    assert!(verify.verify(b"m", &again.sign(&rng, b"m")));
    assert_eq!(format!("{key:?}"), "SigningKey(…)");
}

#[test]
fn bad_keys_are_refused() {
    let key = SigningKey::generate(&Rng::os());
    let der = key.pkcs8_der();
    for cut in [0, 1, 20, 600, der.len() - 1] {
        assert!(SigningKey::from_pkcs8_der(&der[..cut]).is_err());
    }
    assert!(SigningKey::from_pkcs8_der(&[der, &[0]].concat()).is_err());
    assert!(SigningKey::from_pkcs8_der(&vec![0x30; 1 << 20]).is_err());
    let mut bent = der.to_vec();
    bent[400] ^= 1;
    assert!(SigningKey::from_pkcs8_der(&bent).is_err());
    assert!(VerifyKey::from_spki_der(&key.spki_der()[..293]).is_err());
    assert!(VerifyKey::from_spki_der(der).is_err());
    assert!(VerifyKey::from_spki_der(&[]).is_err());
}

#[tokio::test]
async fn the_pool_gives_each_key_once_and_fills_again() {
    let pool = KeyPool::new(2, Rng::os(), Cpu::with_slots(1));
    assert_eq!(pool.available(), 0);
    let alone = pool.take().await;
    let filler = tokio::spawn({
        let pool = pool.clone();
        async move { pool.fill().await }
    });
    let full = async {
        while pool.available() < 2 {
            tokio::task::yield_now().await;
        }
    };
    full.await;
    let (first, second) = (pool.take().await, pool.take().await);
    assert_ne!(first.spki_der(), second.spki_der());
    assert_ne!(first.spki_der(), alone.spki_der());
    while pool.available() < 2 {
        tokio::task::yield_now().await;
    }
    filler.abort();
}

fn shelf(folder: &std::path::Path) -> KeyShelf {
    KeyShelf::open(folder.join("keys"), &JournalKey::new([3; 32]), Rng::os()).unwrap()
}

#[tokio::test]
async fn keys_outlive_the_process_and_are_taken_once() {
    let top = tempfile::tempdir().unwrap();
    let pool = || KeyPool::shelved(shelf(top.path()), 2, 2, Rng::os(), Cpu::with_slots(1));
    let first = pool();
    let filler = tokio::spawn({
        let pool = first.clone();
        async move { pool.fill().await }
    });
    while first.available() < 2 {
        tokio::task::yield_now().await;
    }
    filler.abort();
    assert!(filler.await.unwrap_err().is_cancelled());
    first.put_back();
    assert_eq!((first.available(), shelf(top.path()).count()), (0, 2));
    // Two processes at once, one of which ends without a word.
    let (second, third) = (pool(), pool());
    let (a, b, c) = (second.take().await, third.take().await, third.take().await);
    assert_eq!(shelf(top.path()).count(), 0);
    let mut public: Vec<_> = [&a, &b, &c].map(|key| key.spki_der().to_vec()).into();
    public.dedup();
    assert_eq!(public.len(), 3);
    drop((second, third));
    second_hand(top.path(), &a);
}

/// Keys on the shelf are sealed, and what is damaged is no key.
fn second_hand(folder: &std::path::Path, key: &SigningKey) {
    let shelf = shelf(folder);
    let only = || std::fs::read_dir(folder.join("keys")).unwrap().next().unwrap().unwrap().path();
    shelf.put(key).unwrap();
    let sealed = std::fs::read(only()).unwrap();
    assert!(!sealed.windows(64).any(|w| w == &key.pkcs8_der()[200..264]));
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(only()).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let stranger = KeyShelf::open(folder.join("keys"), &JournalKey::new([4; 32]), Rng::os()).unwrap();
    std::fs::copy(only(), folder.join("copy")).unwrap();
    let path = only();
    assert!(stranger.take(9).unwrap().is_empty());
    std::fs::rename(folder.join("copy"), &path).unwrap();
    let mut bent = sealed;
    bent[100] ^= 1;
    let other = path.with_file_name("other.key");
    std::fs::write(other, bent).unwrap();
    let taken = shelf.take(9).unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].pkcs8_der(), key.pkcs8_der());
    assert_eq!(shelf.count(), 0);
}
