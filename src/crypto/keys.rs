//! Key newtypes: zeroized when dropped, redacted when printed, compared in constant time.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the raw bytes.
            pub fn new(bytes: [u8; $len]) -> Self {
                $name(bytes)
            }

            /// The raw bytes, for the formula that needs them.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}
    };
}

secret! {
    /// The AES key of an immutable file, or what reads a mutable one.
    ReadKey, 16
}
secret! {
    /// What writes a mutable file: encrypts its private key and derives everything else.
    WriteKey, 16
}
secret! {
    /// The secret a server demands before it changes a mutable slot.
    WriteEnabler, 32
}
secret! {
    /// The lease secret of a client (`private/secret`), or one derived from it that is sent to a server.
    LeaseSecret, 32
}
secret! {
    /// What the journal of one mounted root is encrypted under: its records and its staging files.
    JournalKey, 32
}
