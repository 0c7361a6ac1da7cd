//! `mkdir`, `ls`, `get`, `rm`.

use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt};
use indicatif::ProgressBar;
use serde::Serialize;

use super::args::{At, DirFormat};
use super::exit::{Exit, Failure};
use super::local::Target;
use super::output;
use super::place::Place;
use super::session::Session;
use crate::cap::{Cap, FileCap, MutableFormat};
use crate::client::{Client, ClientOptions, Found};
use crate::node::{
    Attributes, Child, Directory, Edit, EditOutcome, Expect, FileType, Freshness, Name, NodeError, NodeFactory,
    Timestamp,
};
use crate::util::Cx;

/// Bytes that one read of a `get` asks for, and how many reads are under way.
const READ_SIZE: u64 = 2 << 20;
const READS: usize = 3;

pub fn mkdir(session: &Session, format: Option<DirFormat>, place: Option<&str>) -> Result<(), Failure> {
    session.with_tree(true, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let format = match format {
            None => client.config().mutable_format,
            Some(DirFormat::Sdmf) => MutableFormat::Sdmf,
            Some(DirFormat::Mdmf) => MutableFormat::Mdmf,
        };
        let Some(place) = place else {
            let made = client.create_directory_in(&cx, format, &[]).await;
            let cap = made.map_err(|e| Failure::node("the new directory", &e))?;
            client.sync(&cx).await.map_err(|e| Failure::node("the new directory", &e))?;
            return output::result(&format!("{}\n", cap.to_uri()));
        };
        let place = Place::parse(place)?;
        let root = place.root(&client)?;
        let made = client.make_directories_in(&cx, &root, place.path(), format).await;
        made.map_err(|e| Failure::resolve(&place.base(), &e))?;
        client.sync(&cx).await.map_err(|e| Failure::node(place.shown(), &e))
    })
}

/// What `place` leads to.
pub async fn find(client: &Client, cx: &Cx, place: &Place) -> Result<Found, Failure> {
    let root = place.root(client)?;
    client.resolve(cx, &root, place.path()).await.map_err(|e| Failure::resolve(&place.base(), &e))
}

/// As [`find`]; what is named with a slash at its end must be a directory.
pub async fn find_as_named(client: &Client, cx: &Cx, place: &Place) -> Result<Found, Failure> {
    let found = find(client, cx, place).await?;
    if matches!(place, Place::Alias { slash: true, .. }) && !found.cap.is_directory() {
        return Err(Failure::at(Exit::NotFound, place.shown(), "is not a directory"));
    }
    Ok(found)
}

/// One entry of `ls --json`. `docs/CLI.md` documents it.
#[derive(Serialize)]
struct Row {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    /// `CHK`, `LIT`, `SDMF` or `MDMF`.
    format: Option<&'static str>,
    /// Known for immutable files alone.
    size: Option<u64>,
    mutable: bool,
    writeable: bool,
    /// Permission bits in octal.
    mode: Option<String>,
    /// Seconds since the epoch.
    mtime: Option<f64>,
}

#[derive(Serialize)]
struct Listing {
    /// `directory` or `file`.
    #[serde(rename = "type")]
    kind: &'static str,
    writeable: bool,
    entries: Vec<Row>,
}

fn row(name: &str, child: &Child) -> Row {
    let attributes = Attributes::of(name, child);
    let (Cap::File(file) | Cap::Dir(file)) = &child.cap else {
        return Row {
            name: name.to_owned(),
            kind: "unknown",
            format: None,
            size: None,
            mutable: false,
            writeable: false,
            mode: None,
            mtime: child.metadata.link_modified(),
        };
    };
    let kind = match attributes.kind {
        _ if matches!(child.cap, Cap::Dir(_)) => "directory",
        FileType::File | FileType::Directory => "file",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::BlockDevice => "block-device",
        FileType::CharDevice => "char-device",
    };
    let format = match file {
        FileCap::Chk(_) | FileCap::ChkVerify(_) => "CHK",
        FileCap::Lit(_) => "LIT",
        FileCap::Mutable(m) if m.format == MutableFormat::Mdmf => "MDMF",
        FileCap::Mutable(_) => "SDMF",
    };
    let size = if kind == "directory" { None } else { child.cap.size() };
    Row {
        name: name.to_owned(),
        kind,
        format: Some(format),
        size,
        mutable: child.cap.is_mutable(),
        writeable: child.cap.is_mutable() && !child.cap.is_readonly(),
        mode: attributes.mode.map(|m| format!("{m:04o}")),
        mtime: attributes.mtime.map(Timestamp::as_float).or(child.metadata.link_modified()),
    }
}

pub fn ls(session: &Session, long: bool, json: bool, at: &At) -> Result<(), Failure> {
    let place = Place::of(at.place.as_deref(), at.cap_file.as_deref())?;
    session.with_tree(false, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let found = find(&client, &cx, &place).await?;
        let writeable = found.cap.is_mutable() && !found.cap.is_readonly();
        let named = |e| Failure::node(place.shown(), &e);
        let (kind, rows) = if found.cap.is_directory() {
            let directory = client.directory(&found.cap).map_err(named)?;
            let table = directory.snapshot(&cx, Freshness::Newest).await.map_err(named)?;
            ("directory", table.entries.iter().map(|(name, child)| row(name, child)).collect())
        } else {
            let name = place.path().last().cloned().unwrap_or_default();
            let child = found.child.unwrap_or_else(|| Child {
                cap: found.cap.clone(),
                metadata: Default::default(),
                packed: None,
            });
            ("file", vec![row(&name, &child)])
        };
        if json {
            return output::json(&Listing { kind, writeable, entries: rows });
        }
        output::result(&rows.iter().map(|row| line(row, long)).collect::<String>())
    })
}

fn line(row: &Row, long: bool) -> String {
    let name = output::shown(&row.name);
    if !long {
        return format!("{name}\n");
    }
    let kind = match row.kind {
        "directory" => 'd',
        "symlink" => 'l',
        "file" => '-',
        "unknown" => '?',
        _ => 's',
    };
    let change = if row.writeable { "rw" } else { "r-" };
    let size = row.size.map_or_else(|| "-".to_owned(), |s| s.to_string());
    let time = row.mtime.map_or_else(|| "-".to_owned(), |t| output::time(t.floor() as i64));
    format!("{kind}{change} {size:>12} {time:>20} {name}\n")
}

pub fn rm(session: &Session, place: &str) -> Result<(), Failure> {
    let place = Place::parse(place)?;
    let path = place.path();
    if path.is_empty() {
        return Err(Failure::at(Exit::Usage, place.shown(), "name what is to be removed from a directory"));
    }
    session.with_tree(true, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let found = find(&client, &cx, &place).await?;
        let Some((parent, name)) = found.edge else {
            return Err(Failure::at(Exit::Usage, place.shown(), "stands in no directory"));
        };
        let edit = Edit::Unlink { name, expect: Expect::Anything };
        modify(&client, &cx, &parent, edit, &place.shown()).await
    })
}

/// Applies one edit to the directory `parent` and waits for the barrier.
pub async fn modify(client: &Client, cx: &Cx, parent: &Cap, edit: Edit, shown: &str) -> Result<(), Failure> {
    let directory = client.directory(parent).map_err(|e| Failure::node(shown, &e))?;
    publish(client, cx, &*directory, &[edit], shown).await
}

/// Applies edits to a directory in one publish and waits for the barrier.
pub async fn publish(
    client: &Client,
    cx: &Cx,
    directory: &dyn Directory,
    edits: &[Edit],
    shown: &str,
) -> Result<(), Failure> {
    let named = |e| Failure::node(shown, &e);
    let outcomes = directory.modify(cx, edits).await.map_err(named)?;
    if outcomes.iter().any(|o| matches!(o, EditOutcome::Conflict { .. })) {
        return Err(Failure::at(Exit::Failed, shown, "another client changed it meanwhile; look and try again"));
    }
    client.sync(cx).await.map_err(named)
}

pub fn get(session: &Session, cap_file: Option<&Path>, operands: &[String]) -> Result<(), Failure> {
    let (place, target) = match (cap_file, operands) {
        (Some(_), [_, _]) => return Err(Failure::usage("get --cap-file takes one FILE and no WHERE")),
        (Some(_), _) => (None, operands.first()),
        (None, []) => return Err(Failure::usage("get: say WHERE the file is, as alias:path")),
        (None, _) => (operands.first(), operands.get(1)),
    };
    let place = Place::of(place.map(String::as_str), cap_file)?;
    let target = target.filter(|t| *t != "-").map(PathBuf::from);
    session.with_tree(false, ClientOptions::default(), async |client| {
        let cx = client.cx();
        let found = find(&client, &cx, &place).await?;
        if found.cap.is_directory() {
            return Err(Failure::at(Exit::Failed, place.shown(), "is a directory; `tahoefs cp -r` copies it"));
        }
        let mut out = match &target {
            Some(path) => Target::file(path, None)?,
            None => Target::Stdout,
        };
        let bar = session.speech.bytes(&place.shown(), 0);
        let fetched = fetch(&client, &cx, &found.cap, &place.shown(), &bar, &mut out).await;
        bar.finish_and_clear();
        fetched?;
        out.finish()
    })
}

/// Runs work on what is `shown` within the limits of `cx`.
pub async fn within<T>(cx: &Cx, shown: &str, work: impl Future<Output = Result<T, NodeError>>) -> Result<T, Failure> {
    let outcome = cx.run(work).await.unwrap_or_else(|stopped| Err(stopped.into()));
    outcome.map_err(|e| Failure::node(shown, &e))
}

/// Reads a whole file into `out`.
pub async fn fetch(
    client: &Client,
    cx: &Cx,
    cap: &Cap,
    shown: &str,
    bar: &ProgressBar,
    out: &mut Target,
) -> Result<u64, Failure> {
    let file = client.readable(cap).map_err(|e| Failure::node(shown, &e))?;
    let size = within(cx, shown, file.size(cx)).await?;
    bar.inc_length(size);
    let pieces = (0..size.div_ceil(READ_SIZE)).map(|n| n * READ_SIZE..((n + 1) * READ_SIZE).min(size));
    let reads = pieces.map(|range| {
        let file = &file;
        async move {
            let asked = [range.clone()];
            let data = within(cx, shown, file.read(cx, &asked)).await?.into_iter().next().unwrap_or_default();
            if data.len() as u64 != range.end - range.start {
                return Err(Failure::at(Exit::Failed, shown, "became shorter while it was read"));
            }
            Ok(data)
        }
    });
    let mut reads = stream::iter(reads).buffered(READS);
    while let Some(data) = reads.next().await {
        let data = data?;
        bar.inc(data.len() as u64);
        out.write(&data)?;
    }
    Ok(size)
}

/// The names above the last, and the last.
pub fn split_last(path: &[Name]) -> Option<(&[Name], &Name)> {
    path.split_last().map(|(name, above)| (above, name))
}
