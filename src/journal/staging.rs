//! Staged contents without a journal behind them: nothing of them outlives the process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Journal, JournalOptions, Staged};
use crate::crypto::JournalKey;
use crate::node::Readable;
use crate::util::{Rng, base32};

/// A folder of staged contents that goes when this is dropped.
#[derive(Clone)]
pub struct Staging(Arc<Inner>);

struct Inner {
    journal: Journal,
    folder: PathBuf,
}

impl Staging {
    /// Makes a folder of its own in `folder`, which is made, mode 0700, if it is not there.
    pub fn new(folder: &Path) -> io::Result<Staging> {
        let rng = Rng::os();
        let folder = folder.join(base32::encode(&rng.bytes::<8>()));
        let (journal, _) = Journal::open(&folder, &JournalKey::new(rng.bytes()), JournalOptions::default())?;
        Ok(Staging(Arc::new(Inner { journal, folder })))
    }

    /// An empty content, or one that begins as a stored file of `base.1` bytes.
    pub fn create(&self, base: Option<(Arc<dyn Readable>, u64)>) -> io::Result<Staged> {
        self.0.journal.create_file(base.map(|(node, size)| (String::new(), node, size)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "the folder of staged contents could not be removed");
        }
    }
}
