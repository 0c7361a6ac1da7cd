//! Hashes, ciphers, signatures, keys and the secrets derived from them.
//!
//! Formulas and tags: PROTOCOL sections 1 and 2. Keys are newtypes that are zeroized when dropped and print redacted.

mod aes;
pub mod hash;
mod keypool;
mod keys;
mod rsa;
mod seal;
pub mod secrets;
mod shelf;
mod xts;

pub use aes::AesCtr;
pub use hash::{Hash, Tag, TaggedHasher};
pub use keypool::KeyPool;
pub use keys::{JournalKey, LeaseSecret, ReadKey, WriteEnabler, WriteKey};
pub use rsa::{BadKey, SigningKey, VerifyKey};
pub use seal::Sealer;
pub use shelf::KeyShelf;
pub use xts::Xts;
