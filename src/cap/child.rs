//! Caps as children: what a directory entry's two slots mean, and what is written into them (PROTOCOL 3, 7).

use super::grammar::{IMM, Parsed, RO, is_marked, parse};
use super::{Cap, CapError, FileCap, UnknownCap};

impl Cap {
    /// What a directory entry holds: its writeable slot, decrypted if it can be, and its read-only slot; empty slots
    /// count as none. `deep_immutable` is true of the entries of an immutable directory.
    ///
    /// The cap in the writeable slot, or else the one in the other, decides alone, as in the reference. So a write
    /// cap in the read-only slot grants writing: whoever reads a directory through a read-only cap takes
    /// [`Cap::readonly`] of the answer (PROTOCOL trap 37).
    ///
    /// Unknown caps have their read-only slot marked with `ro.` or `imm.`. An entry that breaks the rules comes out
    /// as unknown with an error and both slots verbatim. Verify caps count as unknown, but for that of an immutable
    /// file.
    pub fn from_slots(rw: Option<&str>, ro: Option<&str>, deep_immutable: bool) -> Cap {
        let rw = rw.filter(|text| !text.is_empty());
        let ro = ro.filter(|text| !text.is_empty());
        if let Some(Parsed::Known(cap)) = rw.or(ro).map(|text| parse(text, deep_immutable))
            && may_be_opened(&cap)
        {
            return cap;
        }
        let unknown = match unknown_slots(rw, ro, deep_immutable) {
            Ok((rw, ro)) => UnknownCap { rw, ro, error: None },
            Err(error) => UnknownCap { rw: rw.map(str::to_string), ro: ro.map(str::to_string), error: Some(error) },
        };
        Cap::Unknown(unknown)
    }

    /// Whether a directory may take this as a child, immutable all the way down or not.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn may_be_child(&self, deep_immutable: bool) -> Result<(), CapError> {
        match self {
            Cap::Unknown(cap) => match &cap.error {
                Some(error) => Err(error.clone()),
                None => unknown_slots(cap.rw.as_deref(), cap.ro.as_deref(), deep_immutable).map(|_| ()),
            },
            _ if deep_immutable && self.is_mutable() => Err(CapError::MustBeDeepImmutable),
            _ => Ok(()),
        }
    }

    /// What a directory entry stores: the writeable slot, still to be encrypted, and the read-only slot without the
    /// prefix that its place implies. A cap that grants no writing leaves the first empty. Slots that were refused
    /// when they were read come out as they were; see [`Cap::may_be_child`] for what may be stored anew.
    pub fn child_uris(&self, deep_immutable: bool) -> (Option<String>, Option<String>) {
        match self {
            Cap::Unknown(cap) if cap.error.is_some() => (cap.rw.clone(), cap.ro.clone()),
            Cap::Unknown(cap) => {
                let ro = cap.ro.as_deref().map(|ro| strip_implied(ro, deep_immutable).to_string());
                (cap.rw.clone(), ro)
            }
            _ => {
                let rw = (!self.is_readonly()).then(|| self.to_uri());
                (rw, Some(self.readonly().to_uri()))
            }
        }
    }
}

/// Whether a node can be made of the cap.
fn may_be_opened(cap: &Cap) -> bool {
    match cap {
        Cap::File(FileCap::ChkVerify(_)) => true,
        Cap::File(file) | Cap::Dir(file) => !file.is_verifier(),
        Cap::Unknown(_) => false,
    }
}

/// The two slots of an unknown child, the read-only one marked as strongly as its place demands; or the rule broken.
fn unknown_slots(
    rw: Option<&str>,
    ro: Option<&str>,
    deep_immutable: bool,
) -> Result<(Option<String>, Option<String>), CapError> {
    let (rw, ro) = match (rw, ro) {
        (Some(only), None) if only.starts_with(IMM) || (!deep_immutable && is_marked(rw)) => (None, Some(only)),
        (Some(_), None) => return Err(CapError::MustNotBeUnknownWriteable),
        (Some(_), Some(_)) if deep_immutable => return Err(CapError::MustBeDeepImmutable),
        (Some(_), Some(ro)) if ro.starts_with(IMM) => return Err(CapError::MustBeDeepImmutable),
        slots => slots,
    };
    let Some(ro) = ro else { return Ok((None, None)) };
    let marked = match (deep_immutable, is_marked(Some(ro))) {
        (false, true) => ro.to_string(),
        (false, false) => format!("{RO}{ro}"),
        (true, true) if ro.starts_with(IMM) => ro.to_string(),
        (true, _) => format!("{IMM}{}", ro.strip_prefix(RO).unwrap_or(ro)),
    };
    match parse(&marked, deep_immutable) {
        Parsed::Refused(error) => Err(error),
        Parsed::Known(_) | Parsed::Unknown => Ok((rw.map(str::to_string), Some(marked))),
    }
}

/// The read-only slot without the one prefix that its place implies.
fn strip_implied(ro: &str, deep_immutable: bool) -> &str {
    if let Some(rest) = ro.strip_prefix(RO) {
        return rest;
    }
    match ro.strip_prefix(IMM) {
        Some(rest) if deep_immutable => rest,
        _ => ro,
    }
}
