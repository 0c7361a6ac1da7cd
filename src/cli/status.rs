//! `status`, `flush`, `unmount`: what is asked of a mount over its control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::mountpoint::{canonical, is_fuse, is_stale, mounted_path};
use super::output::{self, Pages};
use super::serving::{server_state, unused_servers};
use super::session::Session;
use crate::client::ClientOptions;
use crate::config::NodeDir;
use crate::control::{
    ConflictStatus, Connection, Left, OperationStatus, OperationsStatus, Request, Running, ServerState, Status,
    UnusedServer, mounts,
};
use crate::storage::StorageServer;

/// How often a page is shown that is watched.
const AGAIN: Duration = Duration::from_secs(2);
/// Operations that are shown, of those that run and of those that have ended.
const SHOWN: usize = 8;
/// How long a mount's process may take to end once it has answered.
const LAST_BREATH: Duration = Duration::from_secs(10);
/// How long a process that was killed may take to let go of its mount.
const LETTING_GO: Duration = Duration::from_secs(3);

/// `status --json` without a mountpoint.
#[derive(Serialize)]
struct Overview {
    node_directory: PathBuf,
    mounts: Vec<Status>,
    servers: Vec<ServerState>,
    unused: Vec<UnusedServer>,
}

pub fn status(session: &Session, mountpoint: Option<&Path>, json: bool, watch: bool) -> Result<(), Failure> {
    let dir = session.node_dir()?;
    let page = || -> Result<Page, Failure> {
        Ok(match mountpoint {
            Some(mountpoint) => Page::Mount(Box::new(one(&dir, mountpoint)?)),
            None => Page::Overview(overview(session, &dir)?),
        })
    };
    if !watch {
        let page = page()?;
        return if json { output::json(&page) } else { output::result(&page.text()) };
    }
    let mut pages = Pages::default();
    loop {
        let page = page()?;
        let goes_on = if json { output::more(&output::json_line(&page)?)? } else { pages.show(&page.text())? };
        if !goes_on {
            return Ok(());
        }
        std::thread::sleep(AGAIN);
    }
}

/// What `status` shows.
#[derive(Serialize)]
#[serde(untagged)]
enum Page {
    Mount(Box<Status>),
    Overview(Overview),
}

impl Page {
    fn text(&self) -> String {
        match self {
            Page::Mount(status) => format!("{}{}", text(status), server_lines(&status.servers, &status.unused)),
            Page::Overview(overview) => {
                let mut out = format!("node directory {}\n", overview.node_directory.display());
                overview.mounts.iter().for_each(|m| out.push_str(&text(m)));
                if overview.mounts.is_empty() {
                    out.push_str("nothing is mounted\n");
                }
                out + &server_lines(&overview.servers, &overview.unused)
            }
        }
    }
}

fn one(dir: &NodeDir, mountpoint: &Path) -> Result<Status, Failure> {
    let asked = Connection::at(dir, &canonical(mountpoint)).and_then(Connection::status);
    asked.map_err(|e| Failure::control(mountpoint.display(), &e))
}

fn overview(session: &Session, dir: &NodeDir) -> Result<Overview, Failure> {
    let mut found = Vec::new();
    for running in mounts(dir)? {
        let shown = running.note.mountpoint.display().to_string();
        match Connection::to(running).and_then(Connection::status) {
            Ok(status) => found.push(status),
            Err(e) => session.speech.note(Failure::control(shown, &e).message),
        }
    }
    let options = ClientOptions { may_be_empty: true, ..ClientOptions::default() };
    let (servers, unused) = session.with_client_as(options, async |client| {
        let cx = client.cx();
        let servers = client.grid().servers();
        // What an answer says is remembered, and an error too.
        join_all(servers.iter().map(|server| server.status(&cx))).await;
        Ok((servers.iter().map(|s| server_state(client.grid(), s)).collect(), unused_servers(&client)))
    })?;
    Ok(Overview { node_directory: dir.path().to_owned(), mounts: found, servers, unused })
}

fn text(status: &Status) -> String {
    let Status {
        pid,
        mountpoint,
        source,
        read_only,
        since,
        queue,
        servers,
        cache,
        disk_cache,
        journal,
        operations,
        unused: _,
    } = status;
    let change = if *read_only { ", read-only" } else { "" };
    let mut out = format!(
        "{} on {} (process {pid}{change}, since {})\n",
        output::shown(source),
        mountpoint.display(),
        output::time(*since)
    );
    out.push_str(&format!("  queue: {}\n", left_text(&queue.left)));
    for failure in &queue.failures {
        let name = output::shown(&failure.name);
        out.push_str(&format!("  failed {} {name}: {}\n", output::time(failure.at), failure.error));
    }
    for ConflictStatus { at, path, kept_as } in &queue.conflicts {
        let (at, path) = (output::time(*at), output::shown(path));
        out.push_str(&match kept_as {
            Some(name) => format!("  conflict {at} {path}: both stay, one as {}\n", output::shown(name)),
            None => format!("  conflict {at} {path}: removed by one client and filled by another; it stays\n"),
        });
    }
    out.push_str(&format!("  journal: {} of {}\n", output::size(journal.bytes), output::size(journal.limit)));
    out.push_str(&format!("  cache: {} of {}\n", output::size(cache.bytes), output::size(cache.limit)));
    if let Some(disk) = disk_cache {
        out.push_str(&format!("  cache on disk: {} of {}\n", output::size(disk.bytes), output::size(disk.limit)));
    }
    let away = servers.iter().filter(|s| !s.reachable).count();
    out.push_str(&format!("  servers: {} of {} answer\n", servers.len() - away, servers.len()));
    operation_lines(operations, &mut out);
    out
}

/// What runs, and the latest that has ended, newest first.
fn operation_lines(operations: &OperationsStatus, out: &mut String) {
    let OperationsStatus { active, recent, sums: _ } = operations;
    for operation in active.iter().take(SHOWN) {
        let OperationStatus { kind, storage_index, seconds, bytes, size, .. } = operation;
        let (bytes, size) = (output::size(*bytes), output::size(*size));
        out.push_str(&format!("  {kind} of {storage_index}: {bytes} of {size}, for {seconds:.0} s\n"));
    }
    if active.len() > SHOWN {
        out.push_str(&format!("  and {} more under way\n", active.len() - SHOWN));
    }
    for operation in recent.iter().rev().take(SHOWN) {
        let OperationStatus { kind, storage_index, seconds, bytes, began, state, error, .. } = operation;
        let how = error.as_ref().map_or_else(|| state.clone(), |error| format!("{state}: {}", output::shown(error)));
        let (began, bytes) = (output::time(*began), output::size(*bytes));
        out.push_str(&format!("  {kind} of {storage_index} at {began}: {bytes} in {seconds:.1} s, {how}\n"));
    }
}

fn server_lines(servers: &[ServerState], unused: &[UnusedServer]) -> String {
    let named = |nickname: &str, id: &str| match nickname {
        "" => short_id(id).to_owned(),
        name => output::shown(name),
    };
    let line = |s: &ServerState| {
        let mut line = format!("  {}", named(&s.nickname, &s.id));
        if let Some(address) = &s.address {
            line.push_str(&format!(" ({}, {})", short_id(&s.id), output::shown(address)));
        }
        line.push_str(if s.state == "connected" && s.reachable { ": ok" } else { ": " });
        match (&s.last_error, s.state.as_str()) {
            (_, "connected") if s.reachable => {}
            (Some(error), _) => line.push_str(&output::shown(error)),
            (None, state) => line.push_str(state),
        }
        let since = s.unreachable_for.filter(|t| *t >= 1.0);
        since.iter().for_each(|t| line.push_str(&format!(", for {t:.0} s")));
        let next = s.next_try.filter(|t| *t >= 1.0);
        next.iter().for_each(|t| line.push_str(&format!(", tried again in {t:.0} s")));
        s.latency_ms.filter(|_| s.reachable && s.address.is_some()).iter().for_each(|ms| {
            line.push_str(&format!(", {ms:.0} ms"));
        });
        s.available.filter(|_| s.reachable).iter().for_each(|free| {
            line.push_str(&format!(", {} free", output::size(*free)));
        });
        if s.uncertified {
            line.push_str(", no new shares: no certificate of one of the grid managers in tahoe.cfg");
        }
        if let (true, Some(error)) = (s.reachable, &s.last_error) {
            let minutes = s.last_error_ago.unwrap_or_default() / 60.0;
            line.push_str(&format!("; {minutes:.0} min ago: {}", output::shown(error)));
        }
        line + "\n"
    };
    let mut out = "servers:\n".to_owned();
    servers.iter().for_each(|s| out.push_str(&line(s)));
    if !unused.is_empty() {
        out.push_str("not used:\n");
    }
    for UnusedServer { nickname, id, reason } in unused {
        let id = id.as_deref().unwrap_or("");
        out.push_str(&format!("  {}: {reason}\n", named(nickname, id)));
    }
    out
}

/// The first characters of an id, which tell a grid's servers apart.
fn short_id(id: &str) -> &str {
    let from = if id.starts_with("v0-") { 3 } else { 0 };
    id.get(from..).map_or(id, |rest| rest.get(..8).unwrap_or(rest))
}

/// What is left, for people.
pub fn left_text(left: &Left) -> String {
    if left.is_nothing() {
        return "everything is on the grid".to_owned();
    }
    let (changes, files) = (output::count(left.changes, "change"), output::count(left.files, "file"));
    let amount = format!("{changes}, {files} of {}", output::size(left.bytes));
    match (left.rate, left.eta) {
        (Some(rate), Some(eta)) => format!("{amount}, {}/s, about {}", output::size(rate), output::span(eta)),
        (Some(rate), None) => format!("{amount}, {}/s", output::size(rate)),
        (None, _) => amount,
    }
}

pub fn flush(session: &Session, path: Option<&Path>) -> Result<(), Failure> {
    let dir = session.node_dir()?;
    let all = mounts(&dir)?;
    let Some(path) = path else {
        return all.into_iter().try_for_each(|running| flush_one(session, running, None));
    };
    let real = canonical(path);
    let mount = all
        .into_iter()
        .filter(|m| real.starts_with(&m.note.mountpoint))
        .max_by_key(|m| m.note.mountpoint.as_os_str().len());
    let Some(running) = mount else {
        let message =
            format!("{}: is in no mount of {}; was it mounted with -d?", path.display(), dir.path().display());
        return Err(Failure::new(Exit::Mount, message));
    };
    let below = real.strip_prefix(&running.note.mountpoint).ok().filter(|p| !p.as_os_str().is_empty());
    let below = below.map(Path::to_owned);
    flush_one(session, running, below)
}

fn flush_one(session: &Session, running: Running, path: Option<PathBuf>) -> Result<(), Failure> {
    let shown = running.note.mountpoint.display().to_string();
    wait(
        session,
        Connection::to(running).map_err(|e| Failure::control(&shown, &e))?,
        &Request::Flush { path },
        &shown,
    )?;
    Ok(())
}

/// Sends a request and shows how far it is.
fn wait(session: &Session, to: Connection, request: &Request, shown: &str) -> Result<Left, Failure> {
    let bar = session.speech.waiting(shown);
    let done = to.wait(request, |left| bar.set_message(format!("{shown}: {}", left_text(&left))));
    bar.finish_and_clear();
    done.map_err(|e| Failure::control(shown, &e))
}

pub fn unmount(session: &Session, mountpoint: &Path, force: bool) -> Result<u8, Failure> {
    // A mount without a process can be removed whatever node directory it was of.
    if is_stale(mountpoint) {
        return detach_stale(session, mountpoint);
    }
    let dir = session.node_dir()?;
    let shown = mountpoint.display().to_string();
    let began = Instant::now();
    let to = loop {
        if is_stale(mountpoint) {
            return detach_stale(session, mountpoint);
        }
        match Connection::at(&dir, &canonical(mountpoint)) {
            Ok(to) => break to,
            // A process that is being killed lets go of its socket before it lets go of its mount.
            Err(_) if began.elapsed() < LETTING_GO && is_fuse(mountpoint) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(e) => return Err(Failure::control(&shown, &e)),
        }
    };
    let running = to.running().clone();
    let left = wait(session, to, &Request::Unmount { force }, &shown)?;
    let answered = Instant::now();
    while running.is_held() && answered.elapsed() < LAST_BREATH {
        std::thread::sleep(Duration::from_millis(20));
    }
    if left.is_nothing() {
        return Ok(Exit::Done as u8);
    }
    let message = format!(
        "unmounted; not on the grid yet, and kept in the journal for the next mount of it: {}",
        left_text(&left)
    );
    Err(Failure::at(Exit::LeftBehind, shown, message))
}

/// Removes a mount whose process is gone.
fn detach_stale(session: &Session, mountpoint: &Path) -> Result<u8, Failure> {
    let path = mounted_path(mountpoint);
    let outcome = if nix::unistd::geteuid().is_root() {
        nix::mount::umount2(&path, nix::mount::MntFlags::MNT_DETACH | nix::mount::MntFlags::UMOUNT_NOFOLLOW)
            .map_err(io::Error::from)
    } else {
        let mut command = std::process::Command::new("fusermount3");
        let said = command.args(["-u", "-z", "--"]).arg(&path).output();
        said.and_then(|o| if o.status.success() { Ok(()) } else { Err(io::Error::other("fusermount3 refused")) })
    };
    outcome.map_err(|e| Failure::new(Exit::Mount, format!("{}: cannot be unmounted: {e}", path.display())))?;
    session.speech.note(format!(
        "{}: unmounted. Its process had ended before; what it had not stored by then is in the journal, and goes out \
         with the next mount.",
        path.display()
    ));
    Ok(Exit::LeftBehind as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_again_shows_its_last_error_and_one_without_certificate_says_so() {
        let server = ServerState {
            nickname: "one".into(),
            state: "connected".into(),
            reachable: true,
            last_error: Some("unreachable: no answer in 15 seconds".into()),
            last_error_ago: Some(720.0),
            ..ServerState::default()
        };
        let shown = server_lines(std::slice::from_ref(&server), &[]);
        assert_eq!(shown, "servers:\n  one: ok; 12 min ago: unreachable: no answer in 15 seconds\n");
        let away = ServerState { reachable: false, state: "unreachable".into(), ..server.clone() };
        let shown = server_lines(&[away], &[]);
        assert_eq!(shown, "servers:\n  one: unreachable: no answer in 15 seconds\n");
        let uncertified = ServerState { last_error: None, uncertified: true, ..server };
        let shown = server_lines(&[uncertified], &[]);
        assert!(shown.contains("one: ok, no new shares: no certificate of one of the grid managers"), "{shown}");
    }
}
