//! `mv` and `ln`: names on the grid.

use std::sync::Arc;

use super::args::{Ln, Mv};
use super::exit::{Exit, Failure};
use super::files::{find_as_named, publish, split_last};
use super::place::Place;
use super::session::Session;
use crate::cap::{Cap, StorageIndex};
use crate::client::{Client, ClientOptions, Found, ResolveError};
use crate::node::{Attributes, Directory, Edit, Expect, Freshness, Metadata, Name, NodeError, NodeFactory, normalize};
use crate::util::Cx;

/// The name that something is to have.
struct Destination {
    parent: Arc<dyn Directory>,
    name: Name,
    /// What stands there now; never a directory.
    there: Option<Cap>,
    shown: String,
}

impl Destination {
    /// Follows TO: a directory takes what comes under its own name, a name that is missing or a file's is taken.
    /// Directories that are missing on the way are made. TO must not be below the directory `moved`.
    async fn find(
        client: &Client,
        cx: &Cx,
        to: &Place,
        own_name: Option<&Name>,
        moved: Option<StorageIndex>,
    ) -> Result<Destination, Failure> {
        let shown = to.shown();
        let root = to.root(client)?;
        let slash = matches!(to, Place::Alias { slash: true, .. });
        let found = match client.resolve(cx, &root, to.path()).await {
            Ok(found) => Some(found),
            Err(ResolveError::NotFound { .. }) if !slash => None,
            Err(e) => return Err(Failure::resolve(&to.base(), &e)),
        };
        let named = |e| Failure::node(&shown, &e);
        if let Some(moved) = moved
            && leading_to(client, cx, &root, to.path()).await.map_err(named)?.contains(&moved)
        {
            return Err(Failure::at(Exit::Failed, &shown, "is inside of what is to be moved there"));
        }
        let (parent, name) = match found {
            Some(found) if found.cap.is_directory() => {
                let name = own_name.cloned().ok_or_else(|| {
                    Failure::at(
                        Exit::Usage,
                        &shown,
                        "is a directory; say the name that the capability is to have in it",
                    )
                })?;
                (found.cap, name)
            }
            Some(_) if slash => return Err(Failure::at(Exit::NotFound, &shown, "is not a directory")),
            Some(Found { edge: Some(edge), .. }) => edge,
            Some(_) => return Err(Failure::at(Exit::Usage, &shown, "is no directory's")),
            None => {
                let Some((above, name)) = split_last(to.path()) else {
                    return Err(Failure::at(Exit::Usage, &shown, "say the name that it is to have"));
                };
                let parent = client.make_directories(cx, &root, above).await;
                (parent.map_err(|e| Failure::resolve(&to.base(), &e))?, normalize(name))
            }
        };
        let parent = client.directory(&parent).map_err(named)?;
        if !parent.is_writeable() {
            return Err(named(NodeError::NotWriteable));
        }
        let table = parent.snapshot(cx, Freshness::Newest).await.map_err(named)?;
        let there = table.entries.get(&name).map(|child| child.cap.clone());
        Ok(Destination { parent, name, there, shown })
    }

    /// Whether the name is `name` in `directory`.
    fn is(&self, directory: &dyn Directory, name: &Name) -> bool {
        self.parent.storage_index() == directory.storage_index() && self.name == *name
    }

    fn check_no_directory(&self) -> Result<(), Failure> {
        if self.there.as_ref().is_some_and(Cap::is_directory) {
            let what = format_args!("{} in it is a directory already; it is not replaced", self.name);
            return Err(Failure::at(Exit::Failed, &self.shown, what));
        }
        Ok(())
    }

    /// Puts `cap` there, in place of nothing but what was seen.
    fn link(&self, cap: &Cap, metadata: &Metadata) -> Edit {
        Edit::Link {
            name: Arc::clone(&self.name),
            cap: cap.clone(),
            metadata: Some(metadata.clone()),
            expect: Expect::OneOf(vec![self.there.clone(), Some(cap.clone())]),
        }
    }
}

/// The directories that `path` leads through, as far as it leads.
async fn leading_to(client: &Client, cx: &Cx, root: &Cap, path: &[Name]) -> Result<Vec<StorageIndex>, NodeError> {
    let (mut at, mut passed) = (root.clone(), Vec::new());
    for name in path {
        passed.extend(at.storage_index());
        let table = client.directory(&at)?.snapshot(cx, Freshness::Cached).await?;
        match table.meant(name) {
            Some((_, child)) if child.cap.is_directory() => at = child.cap.clone(),
            _ => return Ok(passed),
        }
    }
    passed.extend(at.storage_index());
    Ok(passed)
}

/// Whether both are written as the same name.
fn same_name(client: &Client, a: &Place, b: &Place) -> Result<bool, Failure> {
    let normal = |place: &Place| place.path().iter().map(|name| normalize(name)).collect::<Vec<_>>();
    let aliases = matches!((a, b), (Place::Alias { .. }, Place::Alias { .. }));
    Ok(aliases && normal(a) == normal(b) && a.root(client)?.readonly() == b.root(client)?.readonly())
}

pub fn mv(session: &Session, args: &Mv) -> Result<(), Failure> {
    let (from, to) = (Place::parse(&args.from)?, Place::parse(&args.to)?);
    if from == Place::Stdin {
        return Err(Failure::usage("mv: a capability has no name that could be moved; `tahoefs ln` gives it one"));
    }
    session.with_tree(true, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let Found { cap, child, edge, .. } = find_as_named(&client, &cx, &from).await?;
        let (Some(child), Some((parent, name))) = (child, edge) else {
            return Err(Failure::at(Exit::Usage, from.shown(), "stands in no directory from which it could be moved"));
        };
        if same_name(&client, &from, &to)? {
            return Ok(());
        }
        let named = |e| Failure::node(from.shown(), &e);
        let parent = client.directory(&parent).map_err(named)?;
        if !parent.is_writeable() {
            return Err(named(NodeError::NotWriteable));
        }
        let moved = cap.storage_index().filter(|_| cap.is_directory());
        let destination = Destination::find(&client, &cx, &to, Some(&name), moved).await?;
        if destination.is(&*parent, &name) {
            return Ok(());
        }
        destination.check_no_directory()?;
        let link = destination.link(&cap, &child.metadata);
        let unlink = Edit::Unlink { name, expect: Expect::OneOf(vec![Some(cap.clone())]) };
        // The new name is there before the old one goes, whatever fails in between.
        publish(&client, &cx, &*destination.parent, &[link], &destination.shown).await?;
        publish(&client, &cx, &*parent, &[unlink], &from.shown()).await
    })
}

pub fn ln(session: &Session, args: &Ln) -> Result<(), Failure> {
    let (from, to) = match (&args.cap_file, args.operands.as_slice()) {
        (Some(file), [to]) => (Place::File(file.clone()), to),
        (None, [from, to]) => (Place::parse(from)?, to),
        (Some(_), _) => return Err(Failure::usage("ln --cap-file takes TO and no FROM")),
        (None, _) => return Err(Failure::usage("ln: say FROM and TO")),
    };
    let to = Place::parse(to)?;
    if from == Place::Stdin && to == Place::Stdin {
        return Err(Failure::usage("ln: two capabilities cannot both come from standard input"));
    }
    session.with_tree(true, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let Found { cap, child, edge, .. } = find_as_named(&client, &cx, &from).await?;
        let destination = Destination::find(&client, &cx, &to, edge.as_ref().map(|(_, name)| name), None).await?;
        if let Some((parent, name)) = &edge
            && destination.is(&*client.directory(parent).map_err(|e| Failure::node(from.shown(), &e))?, name)
        {
            return Ok(());
        }
        destination.check_no_directory()?;
        let metadata = match (child, &edge) {
            (Some(child), Some((_, name))) if !cap.is_directory() => {
                let mut attributes = Attributes::of(name, &child);
                attributes.linked = attributes.id.is_some();
                attributes.write_into(&child.metadata, &cap)
            }
            (child, _) => child.map(|child| child.metadata).unwrap_or_default(),
        };
        publish(&client, &cx, &*destination.parent, &[destination.link(&cap, &metadata)], &destination.shown).await
    })
}
