//! What is logged: enough to see what is done, and never a secret.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tahoefs::cap::{Cap, FileCap, MutableCap, MutableKey};
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::{NodeDir, Nurl};
use tahoefs::crypto::{AesCtr, SigningKey, WriteKey};
use tahoefs::node::{Freshness, NodeFactory};
use tahoefs::share::Version;
use tahoefs::storage::{ReadRange, StorageServer};
use tahoefs::util::base32;

use crate::cli::{content, feed};
use crate::mount::world::{World, said};
use crate::tahoe::{Grid, GridSpec, fresh};

/// What all private keys begin with (PKCS #8, and the public numbers after it) is no secret and may look alike.
const KEY_HEAD: usize = 320;
/// What a short file holds, which stands in its cap.
const SHORT: &str = "the words of a short file";

/// Everything that no log may hold, in every spelling in which it might.
#[derive(Default)]
struct Secrets(BTreeSet<String>);

impl Secrets {
    fn text(&mut self, text: &str) {
        assert!(text.len() >= 8, "{text} is too short to look for");
        self.0.insert(text.to_owned());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        assert!(bytes.len() >= 16);
        let list = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        for text in [base32::encode(bytes), HEXLOWER.encode(bytes), BASE64.encode(bytes), BASE64URL_NOPAD.encode(bytes)]
        {
            self.text(&text);
        }
        self.text(&list);
    }

    /// A key that may be logged as part of something else: some pieces of it, at every place where a spelling may begin.
    fn long(&mut self, bytes: &[u8]) {
        const PIECE: usize = 30;
        assert!(bytes.len() >= 2 * PIECE);
        for piece in bytes.chunks_exact(PIECE).step_by(8) {
            // Five bytes are eight letters of base32, three are four of base64.
            for shift in 0..5 {
                self.text(&base32::encode(&piece[shift..shift + 20]));
            }
            for shift in 0..3 {
                self.text(&BASE64.encode(&piece[shift..shift + 24]));
                self.text(&BASE64URL_NOPAD.encode(&piece[shift..shift + 24]));
            }
            self.text(&HEXLOWER.encode(&piece[..16]));
            self.text(&piece[..12].iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
        }
    }

    /// The private key of a mutable file, as `share` carries it, in the clear and as it is there.
    fn private_key(&mut self, share: &[u8], write_key: &WriteKey) {
        let range = Version::parse(share).unwrap().encrypted_private_key();
        let mut key = share[range.start as usize..range.end as usize].to_vec();
        AesCtr::new(write_key.as_bytes()).apply(&mut key);
        let signing = SigningKey::from_pkcs8_der(&key).expect("a key");
        self.long(&signing.pkcs8_der()[KEY_HEAD..]);
    }

    /// A share of a mutable file, from whoever of `client`'s servers has one.
    async fn share(&self, client: &Client, cap: &MutableCap) -> Vec<u8> {
        let si = cap.storage_index();
        for server in client.grid().servers().to_vec() {
            let range = ReadRange { offset: 0, length: 1 << 20 };
            let shares = server.read_slots(&client.cx(), si, 255, range).await.unwrap_or_default();
            if let Some(share) = shares.into_values().find_map(Result::ok) {
                return share.to_vec();
            }
        }
        panic!("no server has a share of {si:?}");
    }

    /// A cap with all that follows from it, whoever of `client`'s servers is told of that.
    async fn cap(&mut self, client: &Client, cap: &Cap) {
        let weaker = [Some(cap.clone()), Some(cap.readonly()), cap.verifier()];
        weaker.iter().flatten().for_each(|cap| self.text(&cap.to_uri()));
        let file = match cap {
            Cap::File(file) => Some(file.clone()),
            Cap::Dir(dir) => Some(dir.clone()),
            Cap::Unknown(_) => None,
        };
        let grid = client.grid();
        match file {
            Some(FileCap::Chk(cap)) => self.bytes(cap.key.as_bytes()),
            Some(FileCap::Mutable(cap)) => {
                if let MutableKey::Write(key) = &cap.key {
                    self.bytes(key.as_bytes());
                    let share = self.share(client, &cap).await;
                    self.private_key(&share, key);
                    grid.servers().iter().for_each(|s| self.bytes(grid.write_enabler(key, s).as_bytes()));
                }
                if let MutableKey::Read(key) = &cap.readonly().key {
                    self.bytes(key.as_bytes());
                }
            }
            _ => {}
        }
        for (si, server) in
            cap.storage_index().into_iter().flat_map(|si| grid.servers().to_vec().into_iter().map(move |s| (si, s)))
        {
            let lease = grid.lease(si, &server);
            self.bytes(lease.renew.as_bytes());
            self.bytes(lease.cancel.as_bytes());
        }
    }

    /// What the files of a node directory hold.
    fn node(&mut self, dir: &Path) {
        for name in ["secret", "convergence"] {
            let text = fs::read_to_string(dir.join("private").join(name)).unwrap();
            self.text(text.trim());
            self.bytes(&base32::decode(text.trim()).unwrap());
        }
        for entry in
            fs::read_dir(dir.join("tahoefs/private")).unwrap().map(Result::unwrap).filter(|e| e.path().is_file())
        {
            let bytes = fs::read(entry.path()).unwrap();
            match std::str::from_utf8(&bytes) {
                Ok(text) => self.text(text.trim()),
                Err(_) => self.bytes(&bytes),
            }
        }
    }

    /// The caps of a tree.
    async fn tree(&mut self, client: &Client, root: &Cap) {
        let mut open = vec![root.clone()];
        while let Some(cap) = open.pop() {
            self.cap(client, &cap).await;
            if cap.is_directory() {
                let table = client.directory(&cap).unwrap().snapshot(&client.cx(), Freshness::Newest).await.unwrap();
                open.extend(table.entries.values().map(|child| child.cap.clone()));
            }
        }
    }
}

/// Runs the binary with everything that can be logged and returns what it logged. `output` is what it printed.
fn traced(world: &World, arguments: &[&str], input: &[u8], logged: &mut String) -> Vec<u8> {
    let output = feed(world.command(arguments).env("TAHOEFS_LOG", "trace"), input);
    logged.push_str(&String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Every command, and a mount in which everything is done that a program can do. Returns what was logged.
fn work(world: &World, interrupt: impl FnOnce()) -> String {
    let mut logged = String::new();
    let source = world.home().join("source");
    fs::create_dir_all(source.join("below")).unwrap();
    fs::write(source.join("large"), content(300_000)).unwrap();
    fs::write(source.join("below/short"), SHORT).unwrap();
    let large = source.join("large").to_str().unwrap().to_owned();
    let mut told = Vec::new();
    let mut run = |arguments: &[&str], input: &[u8]| traced(world, arguments, input, &mut logged);
    run(&["put", &large, "tahoe:large"], b"");
    run(&["put", "-", "tahoe:short"], SHORT.as_bytes());
    run(&["put", "--format=SDMF", &large, "tahoe:sdmf"], b"");
    run(&["put", "--format=MDMF", &large, "tahoe:mdmf"], b"");
    run(&["mkdir", "tahoe:made"], b"");
    run(&["cp", "-r", source.to_str().unwrap(), "tahoe:"], b"");
    run(&["mv", "tahoe:large", "tahoe:moved"], b"");
    run(&["ln", "tahoe:moved", "tahoe:made/linked"], b"");
    run(&["rm", "tahoe:short"], b"");
    run(&["status"], b"");
    told.extend(run(&["doctor", "--json"], b""));
    let unnamed = run(&["mkdir"], b"");
    assert!(unnamed.starts_with(b"URI:DIR2:"), "the commands work");
    run(&["ls", "-"], &unnamed);
    run(&["ls", "-"], &unnamed[..unnamed.len() - 5]);
    assert_eq!(run(&["get", "tahoe:moved"], b""), content(300_000));
    logged.push_str(&String::from_utf8_lossy(&told));

    let mountpoint = world.mountpoint();
    let arguments = ["mount".as_ref(), "-f".as_ref(), "-o".as_ref(), "deadline=2".as_ref(), mountpoint.as_os_str()];
    let mut command = world.command(&arguments);
    command.env("TAHOEFS_LOG", "trace").stderr(Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    let mut stderr = daemon.stderr.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned()).unwrap()
    });
    while !world.is_mounted() {
        assert!(daemon.try_wait().unwrap().is_none(), "the mount does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    fs::create_dir(world.at("dir")).unwrap();
    fs::write(world.at("dir/large"), content(90_000)).unwrap();
    fs::write(world.at("dir/short"), SHORT).unwrap();
    fs::write(world.at("sdmf"), content(70)).unwrap();
    fs::write(world.at("mdmf"), content(300_001)).unwrap();
    fs::rename(world.at("moved"), world.at("dir/again")).unwrap();
    std::os::unix::fs::symlink("dir/large", world.at("link")).unwrap();
    assert_eq!(fs::read(world.at("dir/again")).unwrap(), content(300_000));
    world.ok(&["flush"]);
    logged.push_str(&world.ok(&["status", "--json"]));
    // What cannot be done is logged too.
    interrupt();
    fs::write(world.at("left"), content(90_000)).unwrap();
    let flush = world.command(&["flush"]).env("TAHOEFS_LOG", "trace").output().unwrap();
    assert!(!flush.status.success(), "{}", said(&flush));
    logged.push_str(&said(&flush));
    logged.push_str(&said(&world.run(&["doctor"])));
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM).unwrap();
    daemon.wait().unwrap();
    logged.push_str(&reader.join().unwrap());
    logged
}

/// Fails when a log holds a secret of `world`, in which all servers answer.
async fn look(world: &World, nurls: &[Nurl], logged: &str) {
    let mut secrets = Secrets::default();
    secrets.node(&world.node_directory());
    secrets.text(SHORT);
    for nurl in nurls {
        secrets.text(&nurl.swissnum);
        secrets.text(&BASE64.encode(nurl.swissnum.as_bytes()));
    }
    let client = Client::open(NodeDir::at(world.node_directory()), ClientOptions::default()).await.unwrap();
    let root = Cap::parse(client.aliases().unwrap().get("tahoe").unwrap()).unwrap();
    secrets.tree(&client, &root).await;
    assert!(secrets.0.len() > 100, "{} secrets", secrets.0.len());
    for secret in &secrets.0 {
        let line = logged.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{secret}");
    }
    // Those of uploads are made anew for each and kept nowhere; all secrets for servers are sent in one header.
    let lower = logged.to_lowercase();
    for name in ["x-tahoe-authorization", "upload-secret", "uploadsecret"] {
        assert!(!lower.contains(name), "{name} is logged");
    }
    // A cap that nothing leads to any more is one, too; its kind may be named.
    let word = |rest: &str| rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, ':' | '-')).unwrap_or(rest.len());
    for line in logged.lines() {
        assert!(line.split("URI:").skip(1).all(|rest| word(rest) < 20) && !line.contains("#v=1"), "{line}");
    }
    for event in ["a server has answered", "stored a file", "published a directory", "published a version", " TRACE "] {
        assert!(logged.contains(event), "{event} is not logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_with_an_embedded_grid() {
    let world = World::mounted();
    world.unmount();
    let store = world.store(1);
    let mut logged = work(&world, || fs::rename(store.join("storage"), store.join("away")).unwrap());
    fs::rename(store.join("away"), store.join("storage")).unwrap();
    // A mount in the background logs into the node directory.
    let mountpoint = world.mountpoint();
    let mount = world.command(&[OsStr::new("mount"), mountpoint.as_os_str()]).env("TAHOEFS_LOG", "trace").output();
    assert!(mount.unwrap().status.success());
    world.unmount();
    logged.push_str(&fs::read_to_string(world.node_directory().join("tahoefs/log")).unwrap());
    look(&world, &[], &logged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_logged_with_real_servers() {
    let (mut grid, world) = tokio::task::spawn_blocking(|| {
        let grid = Grid::start(GridSpec { servers: fresh(2), needed: 1, happy: 2, total: 2 });
        grid.tahoe(&["create-alias", "tahoe"]);
        let world = World::adopting(grid.client_dir());
        (grid, world)
    })
    .await
    .unwrap();
    let nurls: Vec<Nurl> = (0..2).map(|n| Nurl::parse(&grid.nurl(n)).unwrap()).collect();
    let logged = work(&world, || grid.stop_server(0));
    assert!(nurls.iter().all(|nurl| logged.contains(&nurl.address())), "the servers are named");
    grid.start_server(0);
    look(&world, &nurls, &logged).await;
}

#[test]
fn more_is_said_with_each_v() {
    let world = World::mounted();
    world.unmount();
    let says = |verbosity: &[&str]| {
        let output = world.run(&[verbosity, &["ls", "tahoe:"]].concat());
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(says(&[]), "");
    let (info, debug, trace) = (says(&["-v"]), says(&["-vv"]), says(&["-vvv"]));
    assert!(info.contains(" INFO ") && info.contains("store-3") && !info.contains(" DEBUG "), "{info}");
    assert!(debug.contains("a server has answered") && debug.contains("read_slots"), "{debug}");
    assert!(trace.contains("a server has answered"), "{trace}");
}
