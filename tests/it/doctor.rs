//! `tahoefs doctor`: what it finds, with what remedy, and with which exit code.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::mount::world::{World, said};
use crate::tahoe::{Grid, GridSpec, fresh};

/// What was found, and the exit code.
struct Found {
    findings: Vec<Value>,
    code: i32,
}

impl Found {
    fn of(output: &Output) -> Found {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(output)));
        let findings = report["findings"].as_array().unwrap().clone();
        let code = output.status.code().unwrap();
        let unhealthy = findings.iter().any(|f| f["state"] == "warning" || f["state"] == "problem");
        assert_eq!((report["healthy"].as_bool().unwrap(), code), (!unhealthy, i32::from(unhealthy)), "{report}");
        for finding in &findings {
            let is_bad = finding["state"] == "warning" || finding["state"] == "problem";
            assert!(!is_bad || finding["remedy"].is_string(), "a remedy for {finding}");
            assert_eq!(finding["exit"].is_u64(), finding["state"] == "problem", "{finding}");
        }
        Found { findings, code }
    }

    fn by(world: &World) -> Found {
        Found::of(&world.run(&["doctor", "--json"]))
    }

    /// The findings of one check.
    fn all(&self, check: &str) -> Vec<&Value> {
        self.findings.iter().filter(|f| f["check"] == check).collect()
    }

    /// The states of one check.
    fn states(&self, check: &str) -> Vec<&str> {
        self.all(check).iter().map(|f| f["state"].as_str().unwrap()).collect()
    }

    /// The finding of this check whose message has these words.
    fn saying(&self, check: &str, words: &str) -> &Value {
        let found = self.all(check).into_iter().find(|f| f["message"].as_str().unwrap().contains(words));
        found.unwrap_or_else(|| panic!("{check}: nothing says {words:?} in {:#?}", self.findings))
    }

    /// All is well but, maybe, this computer's disk.
    fn is_well(&self) {
        let bad: Vec<&Value> = self
            .findings
            .iter()
            .filter(|f| f["check"] != "space" && f["state"] != "ok" && f["state"] != "note")
            .collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn nothing_is_wrong_with_a_new_grid_mounted_or_not() {
    let world = World::mounted();
    fs::write(world.at("f"), vec![7; 100_000]).unwrap();
    world.ok(&["flush"]);
    let found = Found::by(&world);
    found.is_well();
    assert_eq!(found.saying("queue", "everything is on the grid")["state"], "ok");
    for check in ["fuse", "fusermount", "node-directory", "permissions", "settings", "servers", "happiness", "leases"] {
        assert!(!found.all(check).is_empty(), "{check} in {:#?}", found.findings);
    }
    found.saying("servers", "5 of 5 servers answer");
    found.saying("clock", "not compared");
    found.saying("leases", "none has a lease that ends within a week");
    world.unmount();
    let found = Found::by(&world);
    found.is_well();
    assert!(found.all("queue").is_empty() && found.all("journal").is_empty(), "{:#?}", found.findings);
    let output = world.run(&["doctor"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ok       servers: 5 of 5 servers answer\n"), "{text}");
    assert_eq!(output.status.success(), text.ends_with("nothing is wrong\n"), "{text}");
}

#[test]
fn without_a_node_directory_the_rest_is_looked_at() {
    let world = World::new();
    let mut command = world.command(&["doctor", "--json"]);
    let found = Found::of(&command.env_remove("TAHOEFS_NODE_DIRECTORY").output().unwrap());
    assert_eq!(found.saying("node-directory", "there is none yet")["state"], "note");
    assert!(!found.all("fuse").is_empty() && found.all("servers").is_empty());
    // One that is named should be there.
    let missing = Found::by(&world);
    assert_eq!(missing.saying("node-directory", "there is no node directory")["exit"], 3);
    assert_eq!(missing.code, 1);
    assert!(!world.node_directory().exists(), "nothing is made");
}

#[test]
fn stores_that_are_away_are_named_and_what_fails_without_them() {
    let world = World::new();
    world.ok(&["init"]);
    let store = |n: usize| world.node_directory().join(format!("tahoefs/stores/store-{n}"));
    let take = |n: usize| fs::rename(store(n), store(n).with_extension("away")).unwrap();
    take(2);
    let found = Found::by(&world);
    let away = found.saying("servers", "store-2");
    assert_eq!(away["state"], "warning");
    assert!(away["remedy"].as_str().unwrap().contains("tahoefs store move store-2"), "{away}");
    assert_eq!(found.saying("happiness", "nothing can be stored")["exit"], 4);
    assert_eq!(found.code, 1);
    take(3);
    take(4);
    assert_eq!(Found::by(&world).saying("happiness", "files cannot be read")["exit"], 4);
}

#[test]
fn a_mount_whose_process_was_killed_is_found_and_the_remedies_help() {
    let world = World::mounted();
    fs::create_dir(world.at("d")).unwrap();
    fs::write(world.at("d/f"), vec![7; 100_000]).unwrap();
    kill(Pid::from_raw(world.daemon()), Signal::SIGKILL).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    let shown = world.mountpoint().display().to_string();
    let dead = loop {
        let found = Found::by(&world);
        let dead = found.all("mounts").into_iter().find(|f| f["message"].as_str().unwrap().contains(&shown)).cloned();
        // The kernel may take a moment to notice.
        if let Some(dead) = dead.filter(|f| f["message"].as_str().unwrap().contains("Transport endpoint")) {
            break dead;
        }
        assert!(Instant::now() < until, "{:#?}", found.findings);
        std::thread::sleep(Duration::from_millis(100));
    };
    assert_eq!((&dead["state"], &dead["exit"]), (&"problem".into(), &6.into()));
    assert!(dead["remedy"].as_str().unwrap().contains(&format!("`tahoefs unmount {shown}`")), "{dead}");
    let found = Found::by(&world);
    let left = found.saying("journal", "an earlier mount has left");
    assert!(left["message"].as_str().unwrap().starts_with("tahoe: "), "{left}");
    assert!(left["remedy"].as_str().unwrap().contains("tahoefs mount tahoe: MOUNTPOINT"), "{left}");
    let output = world.run(&[OsStr::new("unmount"), world.mountpoint().as_os_str()]);
    assert_eq!(output.status.code(), Some(7), "{}", said(&output));
    world.mount(&[]);
    assert_eq!(fs::read(world.at("d/f")).unwrap(), vec![7; 100_000], "to look has lost nothing");
    world.unmount();
    let found = Found::by(&world);
    assert!(found.all("journal").is_empty(), "{:#?}", found.findings);
}

#[test]
fn a_process_that_hangs_is_given_up() {
    let world = World::mounted();
    let daemon = Pid::from_raw(world.daemon());
    kill(daemon, Signal::SIGSTOP).unwrap();
    let began = Instant::now();
    let output = world.run(&["doctor", "--json"]);
    kill(daemon, Signal::SIGCONT).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let found = Found::of(&output);
    let shown = world.mountpoint().display().to_string();
    let hangs = found.saying("mounts", &format!("{shown}: no answer"));
    assert_eq!(hangs["exit"], 6);
    assert_eq!(found.saying("queue", "does not answer")["exit"], 6);
    Found::by(&world).is_well();
}

#[test]
fn a_failure_to_store_is_told_while_it_lasts() {
    let world = World::mounted();
    world.ok(&["flush"]);
    let stores = world.node_directory().join("tahoefs/stores");
    fs::rename(&stores, stores.with_extension("away")).unwrap();
    fs::write(world.at("f"), vec![7; 100_000]).unwrap();
    let flush = world.run(&["flush"]);
    assert_eq!(flush.status.code(), Some(4), "{}", said(&flush));
    let found = Found::by(&world);
    let failed = found.saying("queue", "could not be stored");
    assert_eq!(failed["state"], "warning");
    assert!(failed["remedy"].as_str().unwrap().contains("tahoefs flush"), "{failed}");
    fs::rename(stores.with_extension("away"), &stores).unwrap();
    world.ok(&["flush"]);
    Found::by(&world).is_well();
}

#[test]
fn secrets_that_others_can_read_are_found() {
    let world = World::new();
    world.ok(&["init"]);
    let node = world.node_directory();
    assert_eq!(Found::by(&world).states("permissions"), ["ok"]);
    mode(&node, 0o755);
    assert_eq!(Found::by(&world).states("permissions"), ["ok"], "its folders are closed");
    mode(&node.join("private"), 0o750);
    let found = Found::by(&world);
    let open = found.saying("permissions", "is open to other users");
    assert!(open["remedy"].as_str().unwrap().contains("chmod -R go-rwx"), "{open}");
    mode(&node, 0o700);
    assert_eq!(Found::by(&world).states("permissions"), ["ok"], "nobody gets through");
}

#[test]
fn settings_that_cannot_be_used_are_named_with_their_line() {
    let world = World::new();
    world.ok(&["init"]);
    let path = world.node_directory().join("tahoe.cfg");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("shares.needed = 3", "shares.needed = many")).unwrap();
    let found = Found::by(&world);
    assert_eq!(found.saying("settings", "shares.needed is not a number")["exit"], 2);
    assert!(found.all("servers").is_empty(), "nothing is contacted");
}

#[test]
fn a_clock_that_was_set_back_is_found() {
    let world = World::new();
    world.ok(&["init"]);
    let file = File::options().append(true).open(world.node_directory().join("private/secret")).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(7200)).unwrap();
    assert_eq!(Found::by(&world).saying("clock", "was set back")["state"], "warning");
}

#[test]
fn an_ordinary_user_is_told_what_is_missing() {
    if !nix::unistd::geteuid().is_root() {
        // Who runs the tests is one, and all of them say so.
        return;
    }
    const USER: u32 = 65_533;
    let world = World::new();
    world.ok(&["init"]);
    let as_user = |home: &Path| {
        let mut command = world.command(&["doctor", "--json"]);
        command.env("HOME", home).current_dir("/").uid(USER).gid(USER);
        command
    };
    // Another's directory.
    mode(world.home(), 0o755);
    let found = Found::of(&as_user(world.home()).output().unwrap());
    assert_eq!(found.saying("node-directory", "Permission denied")["state"], "problem");
    // Their own.
    let tool = |args: &[&OsStr]| crate::mount::world::tool("chown", args);
    let owner = format!("{USER}:{USER}");
    tool(&["-R".as_ref(), owner.as_ref(), world.node_directory().as_os_str()]);
    let found = Found::of(&as_user(world.home()).output().unwrap());
    assert_eq!(found.states("permissions"), ["ok"], "{:#?}", found.findings);
    found.saying("servers", "5 of 5 servers answer");
    found.saying("allow-other", "user_allow_other");
    assert_eq!(Found::by(&world).saying("permissions", "belongs to the user")["state"], "warning");
}

#[test]
fn the_clocks_of_real_servers_are_compared_and_one_that_is_away_is_named() {
    let mut grid = Grid::start(GridSpec { servers: fresh(2), needed: 1, happy: 1, total: 2 });
    let world = World::adopting(grid.client_dir());
    let found = Found::by(&world);
    found.saying("clock", "agrees with those of 2 servers");
    found.saying("happiness", "2 servers take shares");
    grid.stop_server(1);
    let found = Found::by(&world);
    found.saying("servers", "127.0.0.1:");
    assert_eq!((found.states("servers"), found.states("happiness")), (vec!["warning"], vec!["ok"]));
}
