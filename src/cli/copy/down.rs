//! Out of the grid: every file is fetched beside its place and renamed, so that nothing half-made is left. What is
//! fetched may be hostile: see [`Folder`].

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::{Copier, Item, Source, WIDTH};
use crate::cap::Cap;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::{fetch, within};
use crate::cli::folder::Folder;
use crate::cli::local::Target;
use crate::fs::{TARGET_MAX, shown};
use crate::node::{Attributes, FileType, NodeFactory};

/// Where a file goes.
enum Place<'a> {
    /// Into a directory, below which no link is followed.
    In(&'a Folder, &'a OsStr),
    /// Where the user said.
    Named(&'a Path),
}

/// The name that an item has in a local directory: those that no local file can have are written as a mount shows them.
pub(super) fn local_name(item: &Item) -> OsString {
    let given = match &item.source {
        Source::Grid { child: Some(child), .. } => Attributes::of(&item.name, child).name,
        _ => None,
    };
    OsStr::from_bytes(&shown(&item.name, given.as_deref())).to_owned()
}

fn not_on_the_grid() -> Failure {
    Failure::usage("cp: neither FROM nor TO is on the grid")
}

impl Copier {
    /// Fetches all items into a local directory that is there.
    pub(super) fn fetch_all<'a>(&'a self, items: Vec<Item>, into: &'a Folder) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut names = HashSet::new();
            let mut wanted = Vec::new();
            for item in items {
                let name = local_name(&item);
                if names.insert(name.clone()) {
                    wanted.push((item, name));
                } else {
                    let what = format!("another entry has the name {} here", into.path_of(&name).display());
                    self.note::<()>(Err(Failure::at(Exit::Failed, &item.shown, what)))?;
                }
            }
            let mut fetches = stream::iter(wanted)
                .map(|(item, name)| async move { self.fetch(item, into, &name).await })
                .buffer_unordered(WIDTH);
            while let Some(fetched) = fetches.next().await {
                self.note(fetched.map(Some))?;
            }
            Ok(())
        })
    }

    /// Fetches one item into a directory, under `name`.
    async fn fetch(&self, item: Item, into: &Folder, name: &OsStr) -> Result<(), Failure> {
        let Source::Grid { cap, child, .. } = &item.source else { return Err(not_on_the_grid()) };
        if !cap.is_directory() {
            return self.fetch_file(&item, Place::In(into, name)).await;
        }
        let failed = |e: io::Error| Failure::io(into.path_of(name).display(), &e);
        let attributes = child.as_ref().map(|child| Attributes::of(&item.name, child));
        // Read first: a directory that cannot be read leaves none behind.
        let items = self.children(&item).await?;
        let (folder, made) = into.make(name, attributes.as_ref()).map_err(failed)?;
        self.fetch_all(items, &folder).await?;
        self.copied_directory();
        match &attributes {
            Some(attributes) if made => folder.finish(attributes).map_err(failed),
            _ => Ok(()),
        }
    }

    /// Fetches one item that is no directory to the place that the user named, which may be a link.
    pub(super) async fn fetch_to(&self, item: &Item, to: &Path) -> Result<(), Failure> {
        self.fetch_file(item, Place::Named(to)).await
    }

    async fn fetch_file(&self, item: &Item, place: Place<'_>) -> Result<(), Failure> {
        let Source::Grid { cap, child, .. } = &item.source else { return Err(not_on_the_grid()) };
        let attributes = child.as_ref().map(|child| Attributes::of(&item.name, child));
        let kind = attributes.as_ref().map_or(FileType::File, |a| a.kind);
        if matches!(kind, FileType::File | FileType::Directory) {
            let _turn = self.transfers.acquire().await;
            let mut out = match place {
                Place::In(folder, name) => folder.file(name, attributes.as_ref())?,
                Place::Named(path) => Target::file(path, attributes.as_ref())?,
            };
            let bytes = fetch(&self.client, &self.cx(), cap, &item.shown, &self.bar, &mut out).await?;
            out.finish()?;
            self.copied_file(bytes);
            return Ok(());
        }
        let is_link = kind == FileType::Symlink;
        if !is_link && !self.special {
            let what = "is a pipe, a socket or a device, which are made with --special alone";
            let failure = Failure::at(Exit::Failed, &item.shown, what);
            return if self.recursive { self.skip(failure) } else { Err(failure) };
        }
        let above;
        let (folder, name) = match place {
            Place::In(folder, name) => (folder, name),
            Place::Named(path) => {
                let name = path.file_name().ok_or_else(|| Failure::at(Exit::Failed, path.display(), "is no name"))?;
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
                above = Folder::open(parent).map_err(|e| Failure::io(path.display(), &e))?;
                (&above, name)
            }
        };
        let failed = |e: io::Error| Failure::io(folder.path_of(name).display(), &e);
        let attributes = attributes.unwrap_or_else(|| Attributes::new(kind));
        if is_link {
            let target = self.link_target(cap, &item.shown).await?;
            folder.make_symlink(name, &target, &attributes).map_err(failed)?;
        } else {
            folder.make_special(name, &attributes).map_err(failed)?;
        }
        self.copied_file(0);
        Ok(())
    }

    async fn link_target(&self, cap: &Cap, shown: &str) -> Result<Vec<u8>, Failure> {
        let cx = self.cx();
        let file = self.client.readable(cap).map_err(|e| Failure::node(shown, &e))?;
        let read = within(&cx, shown, file.read(&cx, std::slice::from_ref(&(0..TARGET_MAX + 1)))).await?;
        let target = read.into_iter().next().unwrap_or_default();
        if target.len() as u64 > TARGET_MAX {
            return Err(Failure::at(Exit::Failed, shown, "is a symbolic link to a path that is too long"));
        }
        Ok(target.to_vec())
    }
}
