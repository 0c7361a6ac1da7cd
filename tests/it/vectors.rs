//! Reading the known answers in `tests/data`.

use data_encoding::{BASE64, HEXLOWER};
use serde_json::Value;
use shake::digest::{ExtendableOutput, Update, XofReader};

/// The file `tests/data/<name>`.
pub fn load(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The elements of an array that holds some: a test over none of them would pass for nothing.
pub fn items(value: &Value) -> &Vec<Value> {
    let list = value.as_array().expect("an array");
    assert!(!list.is_empty(), "no vectors here");
    list
}

/// A string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

/// A number.
pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

/// The bytes that a string in lower-case hex stands for.
pub fn hex(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(text(value).as_bytes()).expect("lower-case hex")
}

/// [`hex`], of exactly `N` bytes.
pub fn hex_array<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().expect("as many bytes as asked for")
}

/// The bytes that a string in padded base64 stands for.
pub fn base64(value: &Value) -> Vec<u8> {
    BASE64.decode(text(value).as_bytes()).expect("base64")
}

/// `data(label, n)` of the vectors: the first `length` bytes of SHAKE-256 of `label`.
pub fn data(label: &str, length: usize) -> Vec<u8> {
    let mut hasher = shake::Shake256::default();
    hasher.update(label.as_bytes());
    let mut out = vec![0; length];
    hasher.finalize_xof().read(&mut out);
    out
}
