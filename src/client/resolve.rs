//! From a root and a path to what is there.

use std::sync::Arc;

use super::Client;
use crate::cap::{Cap, MutableFormat};
use crate::node::{Child, Directory, Freshness, Metadata, Name, NodeError, NodeFactory, Table, normalize};
use crate::util::{Cx, Stopped};

/// What a path leads to.
pub struct Found {
    /// The cap.
    pub cap: Cap,
    /// The entry that names it; `None` for the root itself.
    pub child: Option<Child>,
    /// The directory of that entry and the name in it.
    pub edge: Option<(Cap, Name)>,
    /// Whether the grid could not be asked, and directories on the way were taken as they were last seen.
    pub is_as_last_seen: bool,
}

/// Why a path leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no such name.
    #[error("there is no such name")]
    NotFound {
        /// The path up to the name that is missing, in its normal form.
        path: String,
    },
    /// The path goes on below something that is no directory.
    #[error("not a directory")]
    NotADirectory {
        /// The path up to it.
        path: String,
    },
    /// A directory on the way could not be read.
    #[error("{error}")]
    Node {
        /// The path up to it.
        path: String,
        /// Why.
        error: NodeError,
    },
}

impl Client {
    /// Follows `path` from `root`, reading the newest version of every directory on the way; where the grid cannot be asked,
    /// the last that was seen, if such are kept.
    ///
    /// # Errors
    /// A name is missing, is no directory though the path goes on, or cannot be read.
    pub async fn resolve(&self, cx: &Cx, root: &Cap, path: &[Name]) -> Result<Found, ResolveError> {
        let mut found = Found { cap: root.clone(), child: None, edge: None, is_as_last_seen: false };
        for (depth, name) in path.iter().enumerate() {
            let here = || path[..depth].join("/");
            if !found.cap.is_directory() {
                return Err(ResolveError::NotADirectory { path: here() });
            }
            let mut is_as_last_seen = found.is_as_last_seen;
            let table = self.table(cx, &found.cap, &mut is_as_last_seen).await;
            let table = table.map_err(|error| ResolveError::Node { path: here(), error })?;
            let Some((name, child)) = table.meant(name) else {
                return Err(ResolveError::NotFound { path: path[..=depth].join("/") });
            };
            let (cap, child) = (child.cap.clone(), Some(child.clone()));
            found = Found { edge: Some((found.cap, name)), cap, child, is_as_last_seen };
        }
        Ok(found)
    }

    /// The newest table of a directory; where the grid cannot be asked, within the client's patience at most, the last
    /// that was seen, if it is kept. That is noted in `as_last_seen`, and the grid is not asked if that is noted already.
    ///
    /// # Errors
    /// The directory can neither be read nor is it kept.
    pub async fn table(&self, cx: &Cx, cap: &Cap, as_last_seen: &mut bool) -> Result<Arc<Table>, NodeError> {
        let directory = self.directory(cap)?;
        let (Some(_), Some(patience)) = (&self.tables, cx.patience()) else {
            return directory.snapshot(cx, Freshness::Newest).await;
        };
        if *as_last_seen && let Ok(table) = directory.snapshot(cx, Freshness::Kept).await {
            return Ok(table);
        }
        let newest = tokio::time::timeout(patience, directory.snapshot(cx, Freshness::Newest)).await;
        match newest.unwrap_or(Err(NodeError::Stopped(Stopped::Deadline))) {
            Err(error) if error.is_away() => {
                let table = directory.snapshot(cx, Freshness::Kept).await.map_err(|_| error)?;
                *as_last_seen = true;
                Ok(table)
            }
            newest => newest,
        }
    }

    /// The directory at `path` below `root`, made where it is missing, its parents too. Returns its cap.
    ///
    /// # Errors
    /// As [`Client::resolve`], or a directory cannot be made.
    pub async fn make_directories(&self, cx: &Cx, root: &Cap, path: &[Name]) -> Result<Cap, ResolveError> {
        self.make_directories_in(cx, root, path, self.config().mutable_format).await
    }

    /// As [`Client::make_directories`], which goes by `mutable.format`, in files of this format.
    ///
    /// # Errors
    /// As [`Client::make_directories`].
    pub async fn make_directories_in(
        &self,
        cx: &Cx,
        root: &Cap,
        path: &[Name],
        format: MutableFormat,
    ) -> Result<Cap, ResolveError> {
        let mut cap = root.clone();
        for (depth, name) in path.iter().enumerate() {
            let here = || path[..depth].join("/");
            if !cap.is_directory() {
                return Err(ResolveError::NotADirectory { path: here() });
            }
            let below = self.subdirectory(cx, &cap, name, format).await;
            cap = below.map_err(|error| ResolveError::Node { path: path[..=depth].join("/"), error })?;
        }
        if cap.is_directory() { Ok(cap) } else { Err(ResolveError::NotADirectory { path: path.join("/") }) }
    }

    async fn subdirectory(&self, cx: &Cx, parent: &Cap, name: &Name, format: MutableFormat) -> Result<Cap, NodeError> {
        use crate::node::{Edit, EditOutcome, Expect};
        let directory: Arc<dyn Directory> = self.directory(parent)?;
        if let Some((_, child)) = directory.snapshot(cx, Freshness::Newest).await?.meant(name) {
            return Ok(child.cap.clone());
        }
        if !directory.is_writeable() {
            return Err(NodeError::NotWriteable);
        }
        let cap = self.create_directory_in(cx, format, &[]).await?;
        let expect = Expect::OneOf(vec![None, Some(cap.clone())]);
        let edit = Edit::Link { name: normalize(name), cap: cap.clone(), metadata: Some(Metadata::default()), expect };
        match directory.modify(cx, &[edit]).await?.into_iter().next() {
            // Somebody else put something there meanwhile.
            Some(EditOutcome::Conflict { found: Some(child) }) => Ok(child.cap),
            Some(EditOutcome::Conflict { found: None } | EditOutcome::Held) | None => Err(NodeError::Uncoordinated),
            Some(EditOutcome::Applied) => Ok(cap),
        }
    }
}
