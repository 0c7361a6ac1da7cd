//! Into the grid: files are stored and directories published once each, when all that is new in them is there.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::{Copier, Item, Source, WIDTH};
use crate::cap::Cap;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::within;
use crate::cli::local::{describe, kind_of};
use crate::cli::put::FileSource;
use crate::mutable::MAX_CONTENT;
use crate::node::{
    Attributes, BytesSource, Child, Edit, EditOutcome, Expect, FileType, Freshness, Metadata, Name, NodeError,
    NodeFactory, Table, names_of,
};
use crate::util::base32;

/// An entry that is to be published.
struct Entry {
    name: Name,
    cap: Cap,
    metadata: Metadata,
    /// What stood there before.
    there: Option<Cap>,
    shown: String,
}

impl Copier {
    /// Stores all items and names them in the directory `parent`, or in a new one; gives its cap.
    pub(super) fn store_all<'a>(
        &'a self,
        items: Vec<Item>,
        parent: Option<&'a Cap>,
        shown: &'a str,
    ) -> BoxFuture<'a, Result<Cap, Failure>> {
        Box::pin(async move {
            let named = |e| Failure::node(shown, &e);
            let directory = parent.map(|cap| self.client.directory(cap)).transpose().map_err(named)?;
            if directory.as_ref().is_some_and(|d| !d.is_writeable()) {
                return Err(named(NodeError::NotWriteable));
            }
            let table: Arc<Table> = match &directory {
                Some(directory) => directory.snapshot(&self.cx(), Freshness::Newest).await.map_err(named)?,
                None => Arc::default(),
            };
            let mut names = HashSet::new();
            let mut stores = Vec::new();
            for mut item in items {
                if let Some(given) = &item.given {
                    let is_taken = |name: &Name| names.contains(name) || table.entries.contains_key(name);
                    let there = table.made_as(given).map(|(name, _)| name);
                    let place = there.or_else(|| names_of(given).find(|name| !is_taken(name)));
                    item.name = place.unwrap_or(item.name);
                    item.given = item.given.filter(|given| *given != item.name.as_bytes());
                }
                if names.insert(Arc::clone(&item.name)) {
                    stores.push(item);
                } else {
                    let what = format_args!("another entry has the name {} on the grid", item.name);
                    self.note::<()>(Err(Failure::at(Exit::Failed, &item.shown, what)))?;
                }
            }
            let table = &table;
            let mut stores = stream::iter(stores)
                .map(|item| async move {
                    let there = table.entries.get(&item.name);
                    self.store(item, there).await
                })
                .buffer_unordered(WIDTH);
            let mut entries = Vec::new();
            while let Some(entry) = stores.next().await {
                entries.extend(self.note(entry)?);
            }
            let Some(directory) = directory else {
                let children: Vec<(Name, Cap, Metadata)> =
                    entries.into_iter().map(|e| (e.name, e.cap, e.metadata)).collect();
                let cap = self.client.create_directory(&self.cx(), &children).await.map_err(named)?;
                self.copied_directory();
                return Ok(cap);
            };
            let edit = |entry: &Entry| Edit::Link {
                name: Arc::clone(&entry.name),
                cap: entry.cap.clone(),
                metadata: Some(entry.metadata.clone()),
                expect: Expect::OneOf(vec![entry.there.clone(), Some(entry.cap.clone())]),
            };
            let edits: Vec<Edit> = entries.iter().map(edit).collect();
            if !edits.is_empty() {
                let outcomes = directory.modify(&self.cx(), &edits).await.map_err(named)?;
                for (entry, outcome) in entries.iter().zip(outcomes) {
                    if matches!(outcome, EditOutcome::Conflict { .. }) {
                        let what = "another client put something else there meanwhile; it was left";
                        self.note::<()>(Err(Failure::at(Exit::Failed, &entry.shown, what)))?;
                    }
                }
            }
            parent.cloned().ok_or_else(|| named(NodeError::NotWriteable))
        })
    }

    /// Stores one item; `None` when no entry has to be published for it.
    async fn store(&self, item: Item, there: Option<&Child>) -> Result<Option<Entry>, Failure> {
        let Item { name, shown, .. } = &item;
        let (name, shown) = (Arc::clone(name), shown.clone());
        let is_directory = item.source.is_directory();
        match there {
            Some(child) if child.cap.is_directory() != is_directory => {
                let what =
                    if is_directory { "is a directory, and a file has its name" } else { "a directory has its name" };
                return Err(Failure::at(Exit::Failed, &shown, format_args!("{what} on the grid")));
            }
            Some(child) if is_directory => {
                let items = self.contents(item).await?;
                self.store_all(items, Some(&child.cap), &shown).await?;
                return Ok(None);
            }
            _ => {}
        }
        let attributes = self.attributes(&item, there);
        let cap = if is_directory {
            let items = self.contents(item).await?;
            self.store_all(items, None, &shown).await?
        } else {
            match there {
                Some(child) if child.cap.is_mutable() && !child.cap.is_readonly() => {
                    self.overwrite(&item, &child.cap, &shown).await?;
                    child.cap.clone()
                }
                _ => self.store_file(&item).await?,
            }
        };
        let base = there.map(|child| child.metadata.clone());
        let metadata = match attributes {
            Some((attributes, metadata)) => attributes.write_into(&base.or(metadata).unwrap_or_default(), &cap),
            None => base.unwrap_or_default(),
        };
        Ok(Some(Entry { name, cap, metadata, there: there.map(|child| child.cap.clone()), shown }))
    }

    async fn contents(&self, item: Item) -> Result<Vec<Item>, Failure> {
        match item.source {
            Source::Group(items) => Ok(items),
            _ => self.children(&item).await,
        }
    }

    /// The attributes that the entry gets, and the metadata of the source with what is not ours in it. `None` where
    /// the source says nothing of itself.
    fn attributes(&self, item: &Item, there: Option<&Child>) -> Option<(Attributes, Option<Metadata>)> {
        let before = there.map(|child| Attributes::of(&item.name, child));
        let (mut attributes, metadata) = match &item.source {
            Source::Group(_) => return None,
            Source::Local(_, local) => {
                let kind = kind_of(local);
                let before = before.clone().filter(|before| before.kind == kind);
                let mut attributes = describe(before.unwrap_or_else(|| Attributes::new(kind)), local);
                attributes.name = item.given.clone();
                (attributes, None)
            }
            Source::Grid { child, .. } => {
                let child = child.as_ref()?;
                (Attributes::of(&item.name, child), Some(child.metadata.clone()))
            }
        };
        // A copy is a file of its own, and what it replaces is the same file with other content.
        attributes.linked = before.as_ref().is_some_and(|before| before.linked);
        attributes.id = before.and_then(|before| before.id);
        if attributes.id.is_none() && attributes.kind != FileType::Directory {
            attributes.id = Some(base32::encode(&self.client.grid().rng().bytes::<10>()));
        }
        Some((attributes, metadata))
    }

    /// Stores what is no directory, and gives its cap. Mutable files become immutable copies of what they hold now.
    async fn store_file(&self, item: &Item) -> Result<Cap, Failure> {
        let _turn = self.transfers.acquire().await;
        let (named, cx) = (|e| Failure::node(&item.shown, &e), self.cx());
        match &item.source {
            Source::Local(path, metadata) if metadata.is_file() => {
                let (file, size) = open(path, metadata)?;
                // The content is read twice: once for its key, once to be sent.
                self.bar.inc_length(size.saturating_mul(2));
                let source = FileSource { file: Arc::new(file), size, bar: self.bar.clone() };
                let cap = self.client.store_file(&cx, Arc::new(source)).await.map_err(named)?;
                self.copied_file(size);
                Ok(cap)
            }
            Source::Grid { cap, .. } if !cap.is_mutable() => {
                self.copied_file(0);
                Ok(cap.clone())
            }
            _ => {
                let content = self.whole(item).await?;
                let size = content.len() as u64;
                let cap = self.client.store_file(&cx, Arc::new(BytesSource(content))).await.map_err(named)?;
                self.copied_file(size);
                Ok(cap)
            }
        }
    }

    /// Writes what an item holds into a mutable file.
    pub(super) async fn overwrite(&self, item: &Item, cap: &Cap, shown: &str) -> Result<(), Failure> {
        let (named, cx) = (|e| Failure::node(shown, &e), self.cx());
        let file = self.client.writeable(cap).map_err(named)?;
        let content = self.whole(item).await?;
        let size = content.len() as u64;
        file.overwrite(&cx, content).await.map_err(named)?;
        self.copied_file(size);
        Ok(())
    }

    /// All that a file holds; the target of a link; nothing for a special file.
    async fn whole(&self, item: &Item) -> Result<Bytes, Failure> {
        let (named, cx) = (|e| Failure::node(&item.shown, &e), self.cx());
        let failed = |e: io::Error| Failure::io(&item.shown, &e);
        match &item.source {
            Source::Group(_) => Ok(Bytes::new()),
            Source::Local(path, metadata) if metadata.is_symlink() => {
                Ok(Bytes::copy_from_slice(fs::read_link(path).map_err(failed)?.as_os_str().as_bytes()))
            }
            Source::Local(path, metadata) if metadata.is_file() => {
                let (mut file, size) = open(path, metadata)?;
                if size > MAX_CONTENT {
                    return Err(named(NodeError::TooLarge));
                }
                let mut content = Vec::with_capacity(size as usize);
                file.read_to_end(&mut content).map_err(failed)?;
                Ok(content.into())
            }
            Source::Local(..) => Ok(Bytes::new()),
            Source::Grid { cap, .. } => {
                let file = self.client.readable(cap).map_err(named)?;
                let read = async {
                    let size = file.size(&cx).await?;
                    if size > MAX_CONTENT {
                        return Err(NodeError::TooLarge);
                    }
                    Ok(file.read(&cx, std::slice::from_ref(&(0..size))).await?.pop().unwrap_or_default())
                };
                within(&cx, &item.shown, read).await
            }
        }
    }
}

/// A local file and its size.
fn open(path: &Path, seen: &fs::Metadata) -> Result<(File, u64), Failure> {
    let file = open_as(path, seen)?;
    let size = file.metadata().map_err(|e| Failure::io(path.display(), &e))?.len();
    Ok((file, size))
}

/// Opens the file or directory that was `seen` at `path`, and nothing that was put there since: neither a link to what
/// others may not read, nor a pipe that makes us wait.
pub(super) fn open_as(path: &Path, seen: &fs::Metadata) -> Result<File, Failure> {
    let replaced = || Failure::at(Exit::Failed, path.display(), "was replaced while it was copied; copy it again");
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(e) if e.raw_os_error() == Some(libc::ELOOP) => return Err(replaced()),
        other => other.map_err(|e| Failure::io(path.display(), &e))?,
    };
    let now = file.metadata().map_err(|e| Failure::io(path.display(), &e))?;
    let identity = |m: &fs::Metadata| (m.dev(), m.ino(), m.file_type());
    if identity(&now) == identity(seen) { Ok(file) } else { Err(replaced()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_was_put_there_since_is_not_opened() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        let seen = |name: &str| fs::symlink_metadata(path(name)).unwrap();
        for name in ["secret", "a", "b", "c"] {
            fs::write(path(name), name).unwrap();
        }
        fs::create_dir(path("dir")).unwrap();
        fs::create_dir(path("other")).unwrap();
        let before = ["a", "b", "c", "dir"].map(seen);
        open_as(&path("a"), &before[0]).unwrap();
        open_as(&path("dir"), &before[3]).unwrap();
        for name in ["a", "b", "c"] {
            fs::rename(path(name), path(&format!("old {name}"))).unwrap();
        }
        fs::rename(path("dir"), path("old dir")).unwrap();
        symlink(path("secret"), path("a")).unwrap();
        nix::unistd::mkfifo(&path("b"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::write(path("c"), "another").unwrap();
        symlink(path("other"), path("dir")).unwrap();
        for (name, before) in ["a", "b", "c", "dir"].into_iter().zip(&before) {
            let refused = open_as(&path(name), before).unwrap_err();
            assert!(refused.code == 1 && refused.message.contains("was replaced"), "{name}: {}", refused.message);
        }
    }
}
