//! Out of the grid: every file is fetched beside its place and renamed, so that nothing half-made is left.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::{Copier, Item, Source, WIDTH};
use crate::cap::Cap;
use crate::cli::exit::{Exit, Failure};
use crate::cli::files::{fetch, within};
use crate::cli::local::{Target, finish_directory, make_directory, make_special, make_symlink};
use crate::fs::{TARGET_MAX, shown};
use crate::node::{Attributes, FileType, NodeFactory};

impl Copier {
    /// Fetches all items into a local directory that is there.
    pub(super) fn fetch_all<'a>(&'a self, items: Vec<Item>, into: &'a Path) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            let mut fetches = stream::iter(items)
                .map(|item| async move {
                    let given = match &item.source {
                        Source::Grid { child: Some(child), .. } => Attributes::of(&item.name, child).name,
                        _ => None,
                    };
                    // Names that no local file can have are written as a mount shows them.
                    let to = into.join(OsStr::from_bytes(&shown(&item.name, given.as_deref())));
                    self.fetch(item, to).await
                })
                .buffer_unordered(WIDTH);
            while let Some(fetched) = fetches.next().await {
                self.note(fetched.map(Some))?;
            }
            Ok(())
        })
    }

    /// Fetches one item to `to`.
    pub(super) async fn fetch(&self, item: Item, to: PathBuf) -> Result<(), Failure> {
        let Source::Grid { cap, child, .. } = &item.source else {
            return Err(Failure::usage("cp: neither FROM nor TO is on the grid"));
        };
        let failed = |e: std::io::Error| Failure::io(to.display(), &e);
        let attributes = child.as_ref().map(|child| Attributes::of(&item.name, child));
        match attributes.as_ref().map_or(FileType::File, |a| a.kind) {
            _ if cap.is_directory() => {
                // Read first: a directory that cannot be read leaves none behind.
                let items = self.children(&item).await?;
                let made = make_directory(&to, attributes.as_ref()).map_err(failed)?;
                self.fetch_all(items, &to).await?;
                self.copied_directory();
                match &attributes {
                    Some(attributes) if made => finish_directory(&to, attributes).map_err(failed),
                    _ => Ok(()),
                }
            }
            FileType::File | FileType::Directory => {
                let _turn = self.transfers.acquire().await;
                let mut out = Target::file(&to, attributes.as_ref())?;
                let bytes = fetch(&self.client, &self.cx(), cap, &item.shown, &self.bar, &mut out).await?;
                out.finish()?;
                self.copied_file(bytes);
                Ok(())
            }
            FileType::Symlink => {
                let target = self.link_target(cap, &item.shown).await?;
                make_symlink(&to, &target, &attributes.unwrap_or_else(|| Attributes::new(FileType::Symlink)))
                    .map_err(failed)?;
                self.copied_file(0);
                Ok(())
            }
            kind => {
                make_special(&to, &attributes.unwrap_or_else(|| Attributes::new(kind))).map_err(failed)?;
                self.copied_file(0);
                Ok(())
            }
        }
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
