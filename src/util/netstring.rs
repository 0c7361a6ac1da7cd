//! Netstrings: decimal length, `:`, the bytes, `,` (PROTOCOL 1.2).

/// The bytes are not a sequence of netstrings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed netstring")]
pub struct NotNetstring;

/// Appends `ns(s)` to `out`.
pub fn push(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(s.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(s);
    out.push(b',');
}

/// `ns(s)`.
pub fn encode(s: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(s.len() + 8);
    push(&mut out, s);
    out
}

/// Takes one netstring off the front of `input`; returns its bytes and the rest.
pub fn split(input: &[u8]) -> Result<(&[u8], &[u8]), NotNetstring> {
    let colon = input.iter().take(20).position(|&b| b == b':').ok_or(NotNetstring)?;
    let digits = &input[..colon];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NotNetstring);
    }
    let len: usize = std::str::from_utf8(digits).ok().and_then(|s| s.parse().ok()).ok_or(NotNetstring)?;
    let rest = &input[colon + 1..];
    if rest.len() <= len || rest[len] != b',' {
        return Err(NotNetstring);
    }
    Ok((&rest[..len], &rest[len + 1..]))
}
