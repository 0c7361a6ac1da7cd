//! The node directory of a Tahoe client that exists already: taken as it is, and left as it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tahoefs::cap::Cap;
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::NodeDir;
use tahoefs::grid::{LinkState, Server};
use tahoefs::node::{BytesSource, NodeFactory};

use crate::cli::feed;
use crate::mount::world::World;
use crate::tahoe::{Grid, GridSpec, fresh};

const KEY: &str = "v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq";
const OTHER: &str = "v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";

fn run<S: AsRef<OsStr>>(dir: &Path, arguments: &[S], input: &[u8]) -> Output {
    feed(Command::new(env!("CARGO_BIN_EXE_tahoefs")).arg("-d").arg(dir).args(arguments).env("HOME", dir), input)
}

fn ok<S: AsRef<OsStr>>(dir: &Path, arguments: &[S], input: &[u8]) -> Vec<u8> {
    let output = run(dir, arguments, input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn status(dir: &Path) -> Value {
    serde_json::from_slice(&ok(dir, &["status", "--json"], b"")).unwrap()
}

/// Every file and directory with its mode, and what files hold.
fn contents(dir: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            all.insert(path.clone(), (metadata.permissions().mode() & 0o777, content));
            left.extend(metadata.is_dir().then_some(path));
        }
    }
    all
}

/// An announcement at a port where nobody listens.
fn announced(key: &str, nurls: &str) -> String {
    format!(
        "- ann:\n    anonymous-storage-FURL: pb://7p7mwznpadz7y2f3vfrtsl5xayhvt6lh@tcp:127.0.0.1:9/fswissnum\n{nurls}    \
         nickname: server of {}\n    service-name: storage\n  key_s: {key}\n",
        &key[..6]
    )
}

fn nurl() -> String {
    "    anonymous-storage-NURLs: ['pb://AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8@127.0.0.1:9/nswissnum#v=1']\n"
        .into()
}

#[test]
fn a_clients_directory_is_taken_as_it_is_and_left_as_it_was() {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("node");
    fs::create_dir_all(dir.join("private")).unwrap();
    let config =
        "[client]\nhelper.furl = pb://x@tcp:127.0.0.1:9/helperswissnum\npeers.preferred = v0-x\nshares.happy = 1\n";
    fs::write(dir.join("tahoe.cfg"), config).unwrap();
    fs::write(dir.join("private/introducers.yaml"), "introducers: {}\n").unwrap();
    let before = contents(&dir);

    // An introducer whose announcements nobody has seen.
    let nothing = run(&dir, &["ls"], b"");
    let said = String::from_utf8(nothing.stderr).unwrap();
    assert!(nothing.status.code() == Some(4) && said.contains("tahoe run"), "{said}");
    assert_eq!(contents(&dir), before, "nothing is made where nothing can be done");

    // A server that cannot be talked to, which status still shows.
    let cache = dir.join("private/introducer_default_cache.yaml");
    fs::write(&cache, announced(OTHER, "")).unwrap();
    let said = String::from_utf8(run(&dir, &["ls"], b"").stderr).unwrap();
    assert!(said.contains("server of v0-33a") && said.contains("Foolscap"), "{said}");
    let shown = status(&dir);
    assert_eq!(shown["servers"].as_array().unwrap().len(), 0);
    let unused = shown["unused"].as_array().unwrap();
    assert_eq!((unused.len(), &unused[0]["id"]), (2, &Value::from(OTHER)));
    assert!(unused[1]["id"].is_null() && unused[1]["nickname"] == "upload helper", "{shown}");

    // One that could be talked to, if it were there.
    fs::write(&cache, format!("{}{}", announced(OTHER, ""), announced(KEY, &nurl()))).unwrap();
    let shown = status(&dir);
    let server = &shown["servers"][0];
    assert_eq!((&server["id"], &server["address"]), (&Value::from(KEY), &Value::from("127.0.0.1:9")));
    assert_eq!((&server["reachable"], &server["state"]), (&Value::from(false), &Value::from("unreachable")));
    let text = String::from_utf8(ok(&dir, &["status"], b"")).unwrap();
    assert!(text.contains("server of v0-e4j (e4jzyshe, 127.0.0.1:9)") && text.contains("not used:"), "{text}");
    assert!(!text.contains("swissnum") && !shown.to_string().contains("swissnum"), "no secret is shown: {text}");
    let failed = run(&dir, &["put"], &[7; 100]);
    assert_eq!(failed.status.code(), Some(4), "{}", String::from_utf8_lossy(&failed.stderr));

    // Only what is ours was added, and two secrets as the reference makes them.
    let mut after = contents(&dir);
    after.remove(&cache);
    for name in ["secret", "convergence"] {
        let (mode, text) = after.remove(&dir.join("private").join(name)).expect("a secret");
        assert_eq!((mode, text.len(), text.last()), (0o600, 53, Some(&b'\n')), "{name}");
    }
    let ours = dir.join("tahoefs");
    assert_eq!(after[&ours].0, 0o700);
    after.retain(|path, _| !path.starts_with(&ours));
    assert_eq!(after, before);
}

#[test]
fn servers_that_are_not_those_of_their_nurls_are_named() {
    let grid = Grid::start(GridSpec { servers: fresh(2), needed: 1, happy: 1, total: 2 });
    grid.tahoe(&["create-alias", "tahoe"]);
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("node");
    fs::create_dir_all(dir.join("private")).unwrap();
    for name in ["tahoe.cfg", "private/aliases"] {
        fs::copy(grid.client_dir().join(name), dir.join(name)).unwrap();
    }
    let cache = "private/introducer_default_cache.yaml";
    let announced = fs::read_to_string(grid.client_dir().join(cache)).unwrap();
    let nurls = [grid.nurl(0), grid.nurl(1)];
    let other = |letter: char| if letter == 'a' { 'b' } else { 'a' };
    // The first character of the key's hash, then that of the swissnum.
    let places = [|_: &str| "pb://".len(), |nurl: &str| nurl.rfind('/').unwrap() + 1];
    for (at, why) in places.iter().zip(["certificate does not match its NURL", "swissnum is wrong"]) {
        let broken = nurls.iter().fold(announced.clone(), |text, nurl| {
            let mut changed: Vec<char> = nurl.chars().collect();
            changed[at(nurl)] = other(changed[at(nurl)]);
            text.replace(nurl, &changed.into_iter().collect::<String>())
        });
        assert_ne!(broken, announced);
        fs::write(dir.join(cache), broken).unwrap();
        let mountpoint = top.path().join("mnt");
        let mount = [OsStr::new("mount"), OsStr::new("tahoe:"), mountpoint.as_os_str()];
        for failed in [run(&dir, &["ls", "tahoe:"], b""), run(&dir, &mount, b"")] {
            let said = String::from_utf8(failed.stderr).unwrap();
            assert_eq!((failed.status.code(), said.lines().count()), (Some(4), 1), "{said}");
            let address = |n: usize| said.contains(&format!("127.0.0.1:{}", grid.server_port(n)));
            assert!(said.contains(why) && (address(0) || address(1)), "{said}");
            let swissnum = |nurl: &String| nurl[places[1](nurl)..].split('#').next().unwrap()[1..].to_owned();
            assert!(!nurls.iter().any(|nurl| said.contains(&swissnum(nurl))), "{said}");
        }
    }
}

#[test]
fn exported_keys_of_a_clients_directory_make_one_for_both_programs() {
    let mut grid = Grid::start(GridSpec { servers: fresh(2), needed: 1, happy: 2, total: 2 });
    grid.tahoe(&["create-alias", "tahoe"]);
    let top = tempfile::tempdir().unwrap();
    let (keys, dir) = (top.path().join("keys"), top.path().join("node"));
    let data = vec![7; 5000];
    let source = top.path().join("source");
    fs::write(&source, &data).unwrap();
    grid.tahoe(&["put", source.to_str().unwrap(), "tahoe:theirs"]);
    ok(grid.client_dir(), &["export-keys".as_ref(), keys.as_os_str()], b"");
    ok(&dir, &["import-keys".as_ref(), keys.as_os_str()], b"");
    for name in ["introducers.yaml", "introducer_default_cache.yaml", "aliases", "secret", "convergence"] {
        let read = |dir: &Path| fs::read(dir.join("private").join(name)).unwrap();
        assert!(read(&dir) == read(grid.client_dir()), "{name}");
        let mode = fs::metadata(dir.join("private").join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(ok(&dir, &["get", "tahoe:theirs"], b""), data);
    ok(&dir, &["put", "-", "tahoe:ours"], &data);

    // What the introducer announces is read anew.
    fs::remove_file(dir.join("private/introducer_default_cache.yaml")).unwrap();
    grid.start_client_in(&dir);
    let back = top.path().join("back");
    grid.tahoe(&["get", "tahoe:ours", back.to_str().unwrap()]);
    assert_eq!(fs::read(&back).unwrap(), data);
    grid.tahoe(&["put", source.to_str().unwrap(), "tahoe:again"]);
    assert_eq!(ok(&dir, &["get", "tahoe:again"], b""), data);
}

#[test]
fn refused_objects_are_not_opened() {
    let world = World::new();
    world.mount(&[]);
    let data = vec![5; 5000];
    fs::write(world.at("good"), [4; 4000]).unwrap();
    fs::write(world.at("bad"), &data).unwrap();
    fs::create_dir(world.at("dir")).unwrap();
    world.remount();
    let dir = world.node_directory();
    // Equal content has an equal capability.
    let cap = String::from_utf8(ok(&dir, &["put"], &data)).unwrap();
    let si = Cap::parse(cap.trim()).unwrap().storage_index().unwrap();
    let list = dir.join("access.blacklist");
    fs::write(&list, format!("{si} no such cats\n")).unwrap();

    let denied = fs::read(world.at("bad")).unwrap_err();
    assert_eq!(denied.kind(), io::ErrorKind::PermissionDenied, "{denied}");
    assert_eq!(fs::read(world.at("good")).unwrap(), [4; 4000]);
    let names = fs::read_dir(world.mountpoint()).unwrap().count();
    assert_eq!(names, 3, "its name stays");
    let failed = run(&dir, &["get", "tahoe:bad"], b"");
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && said.contains("no such cats"), "{said}");

    // The list counts as it stands.
    fs::write(&list, "").unwrap();
    assert_eq!(fs::read(world.at("bad")).unwrap(), data);

    let alias = fs::read_to_string(dir.join("private/aliases")).unwrap();
    let root = alias.lines().find_map(|line| line.strip_prefix("tahoe: ")).unwrap();
    let si = Cap::parse(root).unwrap().storage_index().unwrap();
    fs::write(&list, format!("{si} closed\n")).unwrap();
    let failed = run(&dir, &["ls"], b"");
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && said.contains("closed"), "{said}");
    fs::remove_file(&list).unwrap();
    ok(&dir, &["ls"], b"");
}

/// A mount, until it is dropped.
struct Mount {
    dir: PathBuf,
    at: PathBuf,
}

impl Drop for Mount {
    fn drop(&mut self) {
        let output = run(&self.dir, &[OsStr::new("unmount"), self.at.as_os_str()], b"");
        if !output.status.success() {
            let _ = Command::new("umount").arg("-l").arg(&self.at).status();
        }
    }
}

/// A client on the directory itself, which stays open.
async fn client(dir: &Path) -> Client {
    Client::open(NodeDir::at(dir), ClientOptions { keep_asking: true, ..ClientOptions::default() }).await.unwrap()
}

/// Waits until servers are as they should be.
async fn until(client: &Client, what: &str, is_so: impl Fn(&[Arc<Server>]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so(&client.grid().servers()) {
        let states: Vec<_> = client.grid().servers().iter().map(|s| (s.address(), s.state(), s.health())).collect();
        assert!(Instant::now() < deadline, "waited in vain until {what}: {states:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_clients_directory_and_its_servers_are_used_beside_it() {
    let mut grid = Grid::start(GridSpec { servers: fresh(5), needed: 3, happy: 3, total: 10 });
    let dir = grid.client_dir().to_owned();
    let config = fs::read(dir.join("tahoe.cfg")).unwrap();
    grid.tahoe(&["create-alias", "tahoe"]);
    let data: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();

    // What one writes the other reads.
    let file = dir.parent().unwrap().join("file");
    fs::write(&file, &data).unwrap();
    grid.tahoe(&["put", file.to_str().unwrap(), "tahoe:theirs"]);
    assert_eq!(ok(&dir, &["get", "tahoe:theirs"], b""), data);
    ok(&dir, &["put", "-", "tahoe:ours"], &data[..100_000]);
    assert_eq!(ok(&dir, &["ls"], b""), b"ours\ntheirs\n");
    let back = dir.parent().unwrap().join("back");
    grid.tahoe(&["get", "tahoe:ours", back.to_str().unwrap()]);
    assert_eq!(fs::read(&back).unwrap(), &data[..100_000]);
    // Convergence and encoding are the same.
    let cap = ok(&dir, &["put"], &data);
    assert_eq!(String::from_utf8(cap).unwrap().trim(), grid.put(&data, "CHK"));

    let shown = status(&dir);
    let servers = shown["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 5, "{shown}");
    for server in servers {
        assert_eq!(
            (&server["state"], &server["reachable"]),
            (&Value::from("connected"), &Value::from(true)),
            "{shown}"
        );
        assert!(server["available"].as_u64().unwrap() > 0 && server["latency_ms"].as_f64().unwrap() > 0.0, "{shown}");
        assert!(server["address"].as_str().unwrap().starts_with("127.0.0.1:"), "{shown}");
    }

    // The client's own directory, mounted from its own servers.
    let mount = Mount { dir: dir.clone(), at: dir.parent().unwrap().join("mnt") };
    ok(&dir, &[OsStr::new("mount"), OsStr::new("tahoe:"), mount.at.as_os_str()], b"");
    assert_eq!(fs::read(mount.at.join("theirs")).unwrap(), data);
    fs::create_dir(mount.at.join("made")).unwrap();
    fs::write(mount.at.join("made/inside"), &data).unwrap();
    let shown = ok(&dir, &[OsStr::new("status"), OsStr::new("--json"), mount.at.as_os_str()], b"");
    let shown: Value = serde_json::from_slice(&shown).unwrap();
    let servers = shown["servers"].as_array().unwrap();
    assert!(servers.len() == 5 && servers.iter().all(|s| s["state"] == "connected"), "{shown}");
    assert!(servers.iter().all(|s| s["available"].as_u64().unwrap() > 0), "{shown}");
    drop(mount);
    grid.tahoe(&["get", "tahoe:made/inside", back.to_str().unwrap()]);
    assert_eq!(fs::read(&back).unwrap(), data);
    grid.tahoe(&["unlink", "tahoe:made"]);
    assert!(!dir.join("tahoefs/stores").exists(), "no grid of our own was made");

    // A server goes away, and another one moves, under a client that stays open.
    let client = client(&dir).await;
    until(&client, "all answer", |all| all.iter().all(|s| s.state() == LinkState::Connected)).await;
    assert!(client.space().free > 0);
    let address = |grid: &Grid, n: usize| format!("127.0.0.1:{}", grid.server_port(n));
    let (gone, old) = (address(&grid, 0), address(&grid, 1));
    grid.stop_server(0);
    grid.move_server(1);
    let new = address(&grid, 1);
    until(&client, "the server that moved is found", |all| {
        !all.iter().any(|s| s.address() == old)
            && all.iter().any(|s| s.address() == new && s.last_status().is_some() && !s.is_down())
    })
    .await;
    let root = client.aliases().unwrap().get("tahoe").unwrap().to_owned();
    let root = Cap::parse(&root).unwrap();
    let found = client.resolve(&client.cx(), &root, &["ours".into()]).await.unwrap();
    let reader = client.readable(&found.cap).unwrap();
    assert_eq!(reader.read(&client.cx(), std::slice::from_ref(&(0..100_000))).await.unwrap()[0], &data[..100_000]);
    let source = Arc::new(BytesSource(vec![9; 70_000].into()));
    let uploaded = client.upload(&client.cx(), source).await.unwrap();
    assert_eq!(uploaded.results.happiness, 4, "{:?}", uploaded.results.share_map);
    let dead = |s: &Arc<Server>| s.address() == gone && matches!(s.state(), LinkState::Unreachable { .. });
    until(&client, "the one that is gone shows", |all| all.iter().any(dead)).await;
    drop(client);
    let shown = status(&dir);
    let away = shown["servers"].as_array().unwrap().iter().filter(|s| s["state"] == "unreachable").count();
    assert_eq!(away, 1, "{shown}");

    // The client starts on its directory after us, and finds what was stored meanwhile.
    ok(&dir, &["put", "-", "tahoe:late"], &data[..1000]);
    grid.stop_client();
    assert_eq!(fs::read(dir.join("tahoe.cfg")).unwrap(), config);
    grid.start_client(4);
    assert_eq!(grid.tahoe(&["ls", "tahoe:"]), "late\nours\ntheirs\n");
    assert_eq!(fs::metadata(dir.join("tahoefs")).unwrap().permissions().mode() & 0o777, 0o700);
    grid.stop();
}
