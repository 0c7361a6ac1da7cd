//! The servers: which answer, whether new files can be stored, whether clocks agree.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;

use super::super::exit::{Exit, Failure};
use super::super::output;
use super::super::serving::{server_state, unused_servers};
use super::super::session::runtime;
use super::Finding;
use super::node::SET_CLOCK;
use crate::client::{Client, ClientOptions};
use crate::config::NodeDir;
use crate::control::{ServerState, UnusedServer};
use crate::grid::{Encoding, Server};
use crate::storage::StorageServer;
use crate::util::Clock;

/// How long a server may take to say how it is.
const ANSWER: Duration = Duration::from_secs(10);
/// How long all of it may take, however many disks hang.
const LIMIT: Duration = Duration::from_secs(20);
/// Seconds by which clocks may differ.
const SKEW: i64 = 60;

/// What a server has said.
struct Seen {
    state: ServerState,
    /// It takes new shares.
    takes: bool,
    /// Seconds by which its clock is ahead of ours, where it tells.
    ahead: Option<i64>,
}

struct Survey {
    servers: Vec<Seen>,
    unused: Vec<UnusedServer>,
    encoding: Encoding,
}

pub fn look(dir: &NodeDir) -> Vec<Finding> {
    const CHECK: &str = "servers";
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(failure) => return vec![Finding::failure(CHECK, &failure, "end some processes of this user")],
    };
    // A task of its own: to open a directory may block.
    let work = runtime.spawn(survey(dir.clone()));
    let surveyed = runtime.block_on(async { tokio::time::timeout(LIMIT, work).await });
    // What hangs is not waited for.
    runtime.shutdown_background();
    match surveyed {
        Ok(Ok(Ok(survey))) => judge(&survey),
        Ok(Ok(Err(failure))) => {
            vec![Finding::failure(
                CHECK,
                &failure,
                "`tahoefs status` lists what is named; `tahoefs store add DIR` adds a store",
            )]
        }
        Ok(Err(_)) | Err(_) => {
            let message = format!("the node directory could not be opened in {} seconds", LIMIT.as_secs());
            let remedy = "look whether the disks of the stores answer, and whether `tahoefs store move` is running";
            vec![Finding::problem(CHECK, Exit::Grid, message, remedy)]
        }
    }
}

async fn survey(dir: NodeDir) -> Result<Survey, Failure> {
    let client = Client::open(dir, ClientOptions::default()).await?;
    let cx = client.cx().with_timeout(ANSWER);
    let servers = client.grid().servers();
    let answers = join_all(servers.iter().map(|server| server.status(&cx))).await;
    let seen = |(server, answer): (&Arc<Server>, Result<_, _>)| Seen {
        state: server_state(client.grid(), server),
        takes: client.grid().takes_new_shares(server)
            && answer.is_ok_and(|status: crate::storage::ServerStatus| status.maximum_immutable_share_size > 0),
        ahead: server.date().map(|(at, date)| date + at.elapsed().as_secs() as i64 - Clock::system().now_secs()),
    };
    Ok(Survey {
        servers: servers.iter().zip(answers).map(seen).collect(),
        unused: unused_servers(&client),
        encoding: client.grid().encoding(),
    })
}

fn judge(survey: &Survey) -> Vec<Finding> {
    let mut findings = servers(survey);
    findings.push(happiness(survey));
    findings.extend(clocks(survey));
    findings
}

fn name(server: &ServerState) -> String {
    output::shown(if server.nickname.is_empty() { &server.id } else { &server.nickname })
}

fn servers(survey: &Survey) -> Vec<Finding> {
    const CHECK: &str = "servers";
    let mut findings = Vec::new();
    for seen in &survey.servers {
        let server = &seen.state;
        let shown = name(server);
        let at = server.address.as_ref().map_or_else(String::new, |at| format!(" ({})", output::shown(at)));
        if !server.reachable {
            let why = server.last_error.as_ref().map_or_else(|| server.state.clone(), |why| output::shown(why));
            let remedy = match &server.address {
                Some(_) => format!(
                    "see whether it runs and can be reached from here; `tahoefs -vv status` logs each request to {shown}"
                ),
                None => format!(
                    "bring its disk back, say where it is now (`tahoefs store move {shown} DIR`), or if it is lost `tahoefs store remove {shown}`"
                ),
            };
            findings.push(Finding::warning(CHECK, format!("{shown}{at}: {why}"), remedy));
        } else if server.uncertified {
            let message =
                format!("{shown}{at}: none of the grid managers in tahoe.cfg certifies it; it gets no new shares");
            findings.push(Finding::note(CHECK, message));
        } else if !seen.takes {
            let remedy = "free some room there, or make it writable; `tahoefs store add DIR` adds a store elsewhere";
            let message = format!("{shown}{at}: it takes no new shares: full, or read-only");
            findings.push(Finding::warning(CHECK, message, remedy));
        }
    }
    let answer = survey.servers.iter().filter(|seen| seen.state.reachable).count();
    let sum = format!("{answer} of {} servers answer", survey.servers.len());
    if answer == survey.servers.len() {
        findings.insert(0, Finding::ok(CHECK, sum));
    }
    for UnusedServer { nickname, id, reason } in &survey.unused {
        let named = if nickname.is_empty() { id.as_deref().unwrap_or("?") } else { nickname };
        findings.push(Finding::note(CHECK, format!("{} is not used: {reason}", output::shown(named))));
    }
    findings
}

fn happiness(survey: &Survey) -> Finding {
    const CHECK: &str = "happiness";
    let Encoding { needed, happy, total, .. } = survey.encoding;
    let count = |of: &dyn Fn(&Seen) -> bool| survey.servers.iter().filter(|seen| of(seen)).count();
    let (answer, take) = (count(&|seen| seen.state.reachable), count(&|seen| seen.takes));
    let remedy =
        "bring servers back, add a store (`tahoefs store add DIR`), or ask for less in tahoe.cfg (shares.happy)";
    if answer < usize::from(needed) {
        let message = format!("files cannot be read: {needed} shares are needed, and {answer} servers answer");
        return Finding::problem(CHECK, Exit::Grid, message, remedy);
    }
    // A share each.
    let reached = take.min(usize::from(total));
    if reached < usize::from(happy) {
        let message = format!(
            "nothing can be stored: {happy} servers must take shares (shares.happy), and {reached} can; what is written \
             waits in the journal"
        );
        return Finding::problem(CHECK, Exit::Grid, message, remedy);
    }
    Finding::ok(CHECK, format!("{reached} servers take shares, of which {happy} are needed"))
}

fn clocks(survey: &Survey) -> Vec<Finding> {
    const CHECK: &str = "clock";
    let mut told: Vec<(i64, String)> =
        survey.servers.iter().filter_map(|seen| Some((seen.ahead?, name(&seen.state)))).collect();
    told.sort();
    let Some((middle, _)) = told.get(told.len() / 2) else {
        let message =
            "not compared: stores on this computer have no clock of their own, and no server has told its time";
        return vec![Finding::note(CHECK, message)];
    };
    // One server alone may be wrong itself, as long as another says so.
    if middle.abs() > SKEW {
        let way = if *middle > 0 { "behind" } else { "ahead of" };
        let span = output::span(middle.unsigned_abs());
        let message = format!("this computer's clock is {span} {way} those of the servers ({} told)", told.len());
        return vec![Finding::warning(CHECK, message, SET_CLOCK)];
    }
    let mut findings: Vec<Finding> = Vec::new();
    for (ahead, name) in told.iter().filter(|(ahead, _)| ahead.abs() > SKEW) {
        let way = if *ahead > 0 { "ahead" } else { "behind" };
        let message = format!("the clock of {name} is {} {way}", output::span(ahead.unsigned_abs()));
        findings.push(Finding::note(CHECK, message).with("tell who runs it: leases end by that clock"));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(CHECK, format!("it agrees with those of {} servers", told.len())));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    fn survey(servers: Vec<Seen>) -> Survey {
        let encoding = Encoding { needed: 3, happy: 4, total: 5, max_segment_size: 1 };
        Survey { servers, unused: Vec::new(), encoding }
    }

    fn seen(n: usize, reachable: bool, takes: bool, ahead: Option<i64>) -> Seen {
        let state = ServerState { nickname: format!("s{n}"), reachable, ..ServerState::default() };
        Seen { state, takes, ahead }
    }

    fn states(findings: &[Finding]) -> Vec<(&str, State)> {
        findings.iter().map(|f| (f.check, f.state)).collect()
    }

    #[test]
    fn happiness_counts_servers_that_take_shares() {
        let with = |reachable: usize, takes: usize| {
            happiness(&survey((0..6).map(|n| seen(n, n < reachable, n < takes, None)).collect()))
        };
        assert_eq!(with(6, 6).state, State::Ok);
        assert_eq!(with(4, 4).state, State::Ok);
        let unhappy = with(6, 3);
        assert_eq!((unhappy.state, unhappy.exit), (State::Problem, Some(4)));
        assert!(unhappy.message.contains("nothing can be stored"), "{unhappy:?}");
        let unreadable = with(2, 2);
        assert!(unreadable.message.contains("cannot be read") && unreadable.exit == Some(4), "{unreadable:?}");
    }

    #[test]
    fn each_server_that_cannot_be_used_is_named_with_what_to_do() {
        let mut full = seen(1, true, false, None);
        full.state.address = Some("h:1".into());
        let found = servers(&survey(vec![seen(0, false, false, None), full, seen(2, true, true, None)]));
        assert_eq!(states(&found), [("servers", State::Warning), ("servers", State::Warning)]);
        assert!(found[0].message.starts_with("s0: ") && found[0].remedy.as_ref().unwrap().contains("store move s0"));
        assert!(found[1].message.contains("s1 (h:1): it takes no new shares"), "{found:?}");
        let found = servers(&survey(vec![seen(0, true, true, None)]));
        assert_eq!((states(&found), &*found[0].message), (vec![("servers", State::Ok)], "1 of 1 servers answer"));
    }

    #[test]
    fn clocks_are_compared_with_the_middle_one() {
        let with = |aheads: &[Option<i64>]| {
            clocks(&survey(aheads.iter().enumerate().map(|(n, ahead)| seen(n, true, true, *ahead)).collect()))
        };
        assert_eq!(states(&with(&[None, None])), [("clock", State::Note)]);
        assert_eq!(states(&with(&[Some(1), Some(-60), None])), [("clock", State::Ok)]);
        let ours = with(&[Some(7200), Some(7201), Some(0)]);
        assert_eq!(states(&ours), [("clock", State::Warning)]);
        assert!(ours[0].message.contains("2 h 0 min behind those of the servers"), "{ours:?}");
        let theirs = with(&[Some(0), Some(-500), Some(1)]);
        assert_eq!(states(&theirs), [("clock", State::Note)]);
        assert!(theirs[0].message.contains("the clock of s1 is 9 min behind"), "{theirs:?}");
    }
}
