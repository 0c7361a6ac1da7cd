//! `doctor`: what is wrong on this computer, in the node directory and with the grid, each with what to do about it.
//!
//! Every look at a disk, a mount or a server has a limit in time: what hangs is a finding.

mod fuse;
mod grid;
mod leases;
mod mounts;
mod node;
mod space;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output;
use super::session::Session;
use crate::config::NodeDir;

pub use mounts::{ASK_MOUNT, ask as ask_mount};

/// How long a look at the local system may take.
const LOCAL_LIMIT: Duration = Duration::from_secs(5);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Note,
    /// Something should be done.
    Warning,
    /// Commands fail because of it.
    Problem,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at. Scripts go by it.
    check: &'static str,
    state: State,
    /// Never holds a cap or a key.
    message: String,
    /// What to do, with the command where there is one.
    remedy: Option<String>,
    /// The exit code of commands that fail because of it.
    exit: Option<u8>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, state: State::Ok, message: message.into(), remedy: None, exit: None }
    }

    fn note(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { state: State::Note, ..Finding::ok(check, message) }
    }

    fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding { state: State::Warning, ..Finding::ok(check, message) }.with(remedy)
    }

    fn problem(check: &'static str, exit: Exit, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let finding = Finding { state: State::Problem, exit: Some(exit as u8), ..Finding::ok(check, message) };
        finding.with(remedy)
    }

    /// What a command fails with.
    fn failure(check: &'static str, failure: &Failure, remedy: impl Into<String>) -> Finding {
        let message = failure.message.clone();
        let finding = Finding { state: State::Problem, exit: Some(failure.code), ..Finding::ok(check, message) };
        finding.with(remedy)
    }

    fn with(self, remedy: impl Into<String>) -> Finding {
        Finding { remedy: Some(remedy.into()), ..self }
    }
}

/// `doctor --json`.
#[derive(Serialize)]
struct Report<'a> {
    node_directory: Option<&'a std::path::Path>,
    healthy: bool,
    findings: &'a [Finding],
}

pub fn doctor(session: &Session, json: bool) -> Result<u8, Failure> {
    let mut findings = fuse::look(&fuse::System::this());
    let dir = node::find(session, &mut findings);
    findings.extend(mounts::stale(dir.as_ref()));
    if let Some(dir) = &dir {
        findings.extend(in_node(dir));
    }
    let healthy = findings.iter().all(|finding| finding.state <= State::Note);
    if json {
        let node_directory = dir.as_ref().map(NodeDir::path);
        output::json(&Report { node_directory, healthy, findings: &findings })?;
    } else {
        output::result(&text(&findings))?;
    }
    Ok(if healthy { Exit::Done } else { Exit::Failed } as u8)
}

fn in_node(dir: &NodeDir) -> Vec<Finding> {
    let mut findings = looked("node-directory", dir, node::permissions);
    let settings = looked("settings", dir, node::settings);
    let can_open = settings.iter().all(|finding| finding.state < State::Problem);
    findings.extend(settings);
    if can_open {
        findings.extend(grid::look(dir));
    }
    findings.extend(looked("clock", dir, node::clock));
    findings.extend(looked("space", dir, space::look));
    findings.extend(mounts::running(dir));
    findings.extend(looked("journal", dir, mounts::left_behind));
    findings.extend(leases::look(dir));
    findings
}

/// What a look at the node directory finds, or that it takes too long.
fn looked(
    check: &'static str,
    dir: &NodeDir,
    look: impl FnOnce(&NodeDir) -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let at = dir.clone();
    within(LOCAL_LIMIT, move || look(&at)).unwrap_or_else(|| vec![hangs(check, &dir.path().display().to_string())])
}

fn hangs(check: &'static str, path: &str) -> Finding {
    let message = format!("{path}: the disk has not answered in {} seconds", LOCAL_LIMIT.as_secs());
    Finding::problem(check, Exit::Failed, message, "look at the disk, or at the server that it is mounted from")
}

/// What `work` gives, unless it takes longer than `limit`: a disk that hangs holds up a thread, which the end of the
/// process ends.
fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let spawned = thread::Builder::new().spawn(move || {
        // Nobody waits any more.
        let _ = sender.send(work());
    });
    spawned.ok().and_then(|_| receiver.recv_timeout(limit).ok())
}

fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for Finding { check, state, message, remedy, .. } in findings {
        let state = match state {
            State::Ok => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        out.push_str(&format!("{state:8} {check}: {}\n", output::shown(message)));
        if let Some(remedy) = remedy {
            out.push_str(&format!("         -> {}\n", output::shown(remedy)));
        }
    }
    let count = |state: State| findings.iter().filter(|finding| finding.state == state).count() as u64;
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    let sum = match (output::count(problems, "problem"), output::count(warnings, "warning")) {
        _ if problems + warnings == 0 => "nothing is wrong".to_owned(),
        (_, warnings) if problems == 0 => warnings,
        (problems, _) if warnings == 0 => problems,
        (problems, warnings) => format!("{problems}, {warnings}"),
    };
    out + &sum + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_given_up() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        assert_eq!(within(Duration::from_millis(10), || thread::sleep(Duration::from_secs(60))), None);
    }

    #[test]
    fn findings_are_lines_with_their_remedies_and_a_sum() {
        let findings = [
            Finding::ok("a", "fine"),
            Finding::warning("b", "two\nlines", "do this"),
            Finding::problem("c", Exit::Mount, "bad", "do that"),
        ];
        let shown = "ok       a: fine\nwarning  b: two\\nlines\n         -> do this\nproblem  c: bad\n         -> do that\n\
                     1 problem, 1 warning\n";
        assert_eq!(text(&findings), shown);
        assert!(text(&findings[..1]).ends_with("nothing is wrong\n"));
    }
}
