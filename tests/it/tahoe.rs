//! A grid of the reference implementation on loopback, run as a black box.
//!
//! [`Grid::start`] runs an introducer, storage nodes (fresh ones, or ones that take over store directories of ours)
//! and a client whose web API the tests talk to. `tests/run` installs the `tahoe` command.

mod web;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use web::{Web, quoted};

/// How long a grid may take to start, with other tests beside it on a slow machine.
const START_LIMIT: Duration = Duration::from_secs(90);
/// How long nodes may take to end when asked politely.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What grid to start.
pub struct GridSpec {
    /// The storage nodes.
    pub servers: Vec<ServerSpec>,
    /// `shares.needed` of the client.
    pub needed: u32,
    /// `shares.happy` of the client.
    pub happy: u32,
    /// `shares.total` of the client.
    pub total: u32,
}

/// A storage node. A store directory has the layout of a node directory: `private/node.pem`, `private/node.privkey`,
/// `node.pubkey`, `my_nodeid`, `permutation-seed` and `storage/`.
pub enum ServerSpec {
    /// One with an identity and a store of its own.
    Fresh,
    /// One that takes over a copy of a store directory, identity and all.
    CopyOf(PathBuf),
    /// One that runs on the store directory itself, which becomes its node directory.
    InPlace(PathBuf),
}

/// A running grid. Its processes end and its directories go when it is dropped.
pub struct Grid {
    introducer: Node,
    servers: Vec<Node>,
    client: Node,
    web: Web,
    _temp: TempDir,
}

impl Grid {
    /// Starts a grid and returns once the client is connected to all servers and has written down how to reach them.
    ///
    /// # Panics
    /// When that does not happen within a minute and a half; the nodes' last words are in the message.
    pub fn start(spec: GridSpec) -> Grid {
        let tahoe = tahoe_command();
        let temp = tempfile::Builder::new().prefix("grid-").tempdir().expect("a temporary directory");
        let deadline = Instant::now() + START_LIMIT;
        let web_port = free_port();
        let new_node = |name: &str, args: &[String]| Node::create(&tahoe, name, temp.path(), args);

        let mut introducer = new_node("introducer", &tub_options("create-introducer"));
        let mut server_args = Vec::new();
        for _ in &spec.servers {
            let mut args = tub_options("create-node");
            args.push("--webport=none".into());
            server_args.push(args);
        }
        let mut servers: Vec<Node> =
            server_args.iter().enumerate().map(|(i, args)| new_node(&format!("server{i}"), args)).collect();
        let mut client = new_node(
            "client",
            &[
                "create-client".into(),
                format!("--webport=tcp:{web_port}:interface=127.0.0.1"),
                format!("--shares-needed={}", spec.needed),
                format!("--shares-happy={}", spec.happy),
                format!("--shares-total={}", spec.total),
            ],
        );
        for node in [&mut introducer, &mut client].into_iter().chain(&mut servers) {
            node.finish_create();
        }
        for (node, spec) in servers.iter_mut().zip(&spec.servers) {
            node.set_option("reserved_space", "0");
            match spec {
                ServerSpec::Fresh => {}
                ServerSpec::CopyOf(store) => {
                    let copy = temp.path().join(format!("{}-copy", node.name));
                    copy_tree(store, &copy);
                    node.move_to(&copy);
                }
                ServerSpec::InPlace(store) => node.move_to(store),
            }
        }

        introducer.run();
        let furl_file = introducer.dir.join("private/introducer.furl");
        wait_until(deadline, &[&introducer], "the introducer has a fURL", || {
            fs::read_to_string(&furl_file).is_ok_and(|furl| furl.ends_with('\n'))
        });
        let furl = fs::read_to_string(&furl_file).expect("the fURL was there");
        let introducers = format!("introducers:\n  default:\n    furl: {furl}");
        for node in servers.iter_mut().chain([&mut client]) {
            fs::create_dir_all(node.dir.join("private")).expect("a private directory");
            fs::write(node.dir.join("private/introducers.yaml"), &introducers).expect("introducers.yaml");
            node.run();
        }
        let grid = Grid { introducer, servers, client, web: Web::new(web_port), _temp: temp };
        grid.wait_connected(grid.servers.len(), deadline);
        grid
    }

    fn nodes(&self) -> Vec<&Node> {
        [&self.introducer, &self.client].into_iter().chain(&self.servers).collect()
    }

    fn wait_connected(&self, count: usize, deadline: Instant) {
        let cache = self.client.dir.join("private/introducer_default_cache.yaml");
        wait_until(deadline, &self.nodes(), "the client is connected to all servers", || {
            let Some(status) = self.web.try_get("/?t=json") else {
                return false;
            };
            let Ok(status) = serde_json::from_slice::<Value>(&status) else {
                return false;
            };
            let servers = status["servers"].as_array().map_or(&[][..], Vec::as_slice);
            // Over HTTP it says "connected", over Foolscap "Connected to ...".
            let is_connected = |server: &&Value| {
                let status = server["connection_status"].as_str().unwrap_or_default();
                status.to_ascii_lowercase().starts_with("connected")
            };
            servers.iter().filter(is_connected).count() == count
                && fs::read_to_string(&cache).is_ok_and(|text| text.matches("anonymous-storage-NURLs").count() >= count)
        });
    }

    /// The client's node directory; `private/introducer_default_cache.yaml` in it names all servers.
    pub fn client_dir(&self) -> &Path {
        &self.client.dir
    }

    /// The node directory of the server that stood at `index` in the specification.
    pub fn server_dir(&self, index: usize) -> &Path {
        &self.servers[index].dir
    }

    /// Ends one server; the others do without it.
    pub fn stop_server(&mut self, index: usize) {
        self.servers[index].stop();
    }

    /// Starts a server again that was ended, and waits until it listens. The client finds it at the old place.
    pub fn start_server(&mut self, index: usize) {
        self.servers[index].run();
        let port = self.server_port(index);
        let deadline = Instant::now() + START_LIMIT;
        wait_until(deadline, &[&self.servers[index]], "the server listens", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    }

    /// Stops a server's clock: connections are accepted by the kernel, and nothing answers.
    pub fn freeze_server(&self, index: usize) {
        self.servers[index].signal(nix::sys::signal::Signal::SIGSTOP);
    }

    /// The counterpart of [`Grid::freeze_server`].
    pub fn thaw_server(&self, index: usize) {
        self.servers[index].signal(nix::sys::signal::Signal::SIGCONT);
    }

    /// Waits until the client is connected to all servers again.
    pub fn wait_for_servers(&self) {
        self.wait_connected(self.servers.len(), Instant::now() + START_LIMIT);
    }

    /// Where a server speaks HTTPS, as it announced itself.
    pub fn nurl(&self, index: usize) -> String {
        let cache = self.client.dir.join("private/introducer_default_cache.yaml");
        let cache = fs::read_to_string(cache).expect("the client's cache");
        let address = format!("@127.0.0.1:{}/", self.server_port(index));
        let mut words = cache.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
        words.find(|w| w.contains(&address) && w.ends_with("#v=1")).expect("the server's NURL").to_owned()
    }

    /// Ends the client, whose web API then does not answer.
    pub fn stop_client(&mut self) {
        self.client.stop();
    }

    /// Starts the client again and waits until it is connected to `count` servers.
    pub fn start_client(&mut self, count: usize) {
        self.client.run();
        self.wait_connected(count, Instant::now() + START_LIMIT);
    }

    /// Ends the client and starts one on another node directory, which has no web port and gets that of the old one.
    pub fn start_client_in(&mut self, dir: &Path) {
        self.client.stop();
        let config = |dir: &Path| fs::read_to_string(dir.join("tahoe.cfg")).expect("tahoe.cfg");
        let old = config(&self.client.dir);
        let port = old.lines().find(|line| line.starts_with("web.port")).expect("a web port");
        let new = config(dir).replace("[node]\n", &format!("[node]\n{port}\n"));
        fs::write(dir.join("tahoe.cfg"), new).expect("tahoe.cfg");
        self.client.dir = dir.to_owned();
        self.start_client(self.servers.len());
    }

    /// Starts a server again at another port, which it announces.
    pub fn move_server(&mut self, index: usize) {
        let node = &mut self.servers[index];
        node.stop();
        node.port = free_port();
        node.set_option("tub.port", &format!("tcp:{}:interface=127.0.0.1", node.port));
        node.set_option("tub.location", &format!("tcp:127.0.0.1:{}", node.port));
        node.run();
    }

    /// Starts a server again with no space left for immutable shares.
    pub fn fill_server(&mut self, index: usize) {
        self.servers[index].stop();
        self.servers[index].set_option("reserved_space", "1000000G");
        self.start_server(index);
    }

    /// The TCP port that a server was created with.
    pub fn server_port(&self, index: usize) -> u16 {
        self.servers[index].port
    }

    /// Ends all processes and waits for them. The directories stay until the grid is dropped.
    pub fn stop(&mut self) {
        self.client.stop();
        self.servers.iter_mut().for_each(Node::stop);
        self.introducer.stop();
    }

    /// Runs the client's `tahoe` command line and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn tahoe(&self, args: &[&str]) -> String {
        let output = Command::new(tahoe_command())
            .arg("--node-directory")
            .arg(&self.client.dir)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .expect("tahoe starts");
        text_of(&output, &format!("tahoe {}", args.join(" ")))
    }

    /// Reads what stands at `path` below `cap`, or behind `cap` itself for an empty path.
    pub fn get(&self, cap: &str, path: &str) -> Vec<u8> {
        self.web.get(&uri(cap, path))
    }

    /// Uploads `data` in `format` (`CHK`, `SDMF`, `MDMF`) and returns its cap.
    pub fn put(&self, data: &[u8], format: &str) -> String {
        text(self.web.put(&format!("/uri?format={format}"), data))
    }

    /// Uploads `data` to `path` below the directory `cap`: a new file, or a new version of the one that is there.
    pub fn put_at(&self, cap: &str, path: &str, data: &[u8]) -> String {
        text(self.web.put(&uri(cap, path), data))
    }

    /// As [`Grid::put_at`]; whether the client says that it is done.
    pub fn try_put_at(&self, cap: &str, path: &str, data: &[u8]) -> bool {
        self.web.try_request("PUT", &uri(cap, path), data)
    }

    /// As [`Grid::delete`]; whether the client says that it is done.
    pub fn try_delete(&self, cap: &str, path: &str) -> bool {
        self.web.try_request("DELETE", &uri(cap, path), b"")
    }

    /// Makes a directory that stands nowhere, in `format` (`SDMF`, `MDMF`), and returns its cap.
    pub fn mkdir(&self, format: &str) -> String {
        text(self.web.post(&format!("/uri?t=mkdir&format={format}"), b""))
    }

    /// Makes the directory `path` below the directory `cap` and returns its cap.
    pub fn mkdir_at(&self, cap: &str, path: &str) -> String {
        text(self.web.post(&format!("{}?t=mkdir", uri(cap, path)), b""))
    }

    /// What the web API tells of `path` below `cap`: `["dirnode", {"children": {..}, ..}]` or `["filenode", {..}]`.
    pub fn list_json(&self, cap: &str, path: &str) -> Value {
        json(&self.web.get(&format!("{}?t=json", uri(cap, path))))
    }

    /// The names in the directory `cap`, sorted.
    pub fn names(&self, cap: &str) -> Vec<String> {
        let listing = self.list_json(cap, "");
        let children = listing[1]["children"].as_object().expect("a directory");
        let mut names: Vec<String> = children.keys().cloned().collect();
        names.sort();
        names
    }

    /// Checks the object `cap`, reading all its shares when `verify` is set.
    pub fn check(&self, cap: &str, verify: bool) -> Value {
        let path = format!("{}?t=check&verify={verify}&output=JSON", uri(cap, ""));
        json(&self.web.post(&path, b""))
    }

    /// Reads all shares of everything below the directory `cap`: a report for each object, as
    /// `{"type": .., "path": [..], "check-results": {..}}`, the directory's own first.
    pub fn deep_verify(&self, cap: &str) -> Vec<Value> {
        let path = format!("{}?t=stream-deep-check&verify=true", uri(cap, ""));
        let lines = text(self.web.post(&path, b""));
        let mut reports: Vec<Value> = lines.lines().map(|line| json(line.as_bytes())).collect();
        let last = reports.pop().expect("a last line");
        assert_eq!(last["type"], "stats", "the walk broke off: {lines}");
        reports
    }

    /// Puts children into the directory `cap`, in the place of what is there: `{NAME: ["filenode", {"ro_uri": ..,
    /// "rw_uri": .., "metadata": {..}}], ..}`. Any text is a name.
    pub fn set_children(&self, cap: &str, children: &Value) {
        let path = format!("{}?t=set_children&overwrite=true", uri(cap, ""));
        self.web.post(&path, children.to_string().as_bytes());
    }

    /// Makes an immutable directory of children as [`Grid::set_children`] takes them, and returns its cap.
    pub fn mkdir_immutable(&self, children: &Value) -> String {
        text(self.web.post("/uri?t=mkdir-immutable", children.to_string().as_bytes()))
    }

    /// Gives the child `from` of the directory `cap` the name `to`.
    pub fn rename(&self, cap: &str, from: &str, to: &str) {
        let (from, to) = (quoted(from), quoted(to));
        self.web.post(&format!("{}?t=rename&from_name={from}&to_name={to}", uri(cap, "")), b"");
    }

    /// Moves the child `from` of the directory `cap` into the directory `to_dir`, under the name `to`.
    pub fn relink(&self, cap: &str, from: &str, to_dir: &str, to: &str) {
        let query = format!("from_name={}&to_dir={}&to_name={}", quoted(from), quoted(to_dir), quoted(to));
        self.web.post(&format!("{}?t=relink&{query}", uri(cap, "")), b"");
    }

    /// Links `child` into the directory `cap` under `name`, in the place of what is there.
    pub fn link(&self, cap: &str, name: &str, child: &str) {
        self.web.put(&format!("{}?t=uri&replace=true", uri(cap, name)), child.as_bytes());
    }

    /// Removes `path` below the directory `cap`.
    pub fn delete(&self, cap: &str, path: &str) {
        self.web.delete(&uri(cap, path));
    }
}

fn uri(cap: &str, path: &str) -> String {
    let mut out = format!("/uri/{}", quoted(cap));
    for name in path.split('/').filter(|name| !name.is_empty()) {
        out.push('/');
        out.push_str(&quoted(name));
    }
    out
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the web API answers in UTF-8").trim_end().to_owned()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("the web API answers in JSON")
}

/// A node directory and, while it runs, its process.
struct Node {
    name: String,
    dir: PathBuf,
    tahoe: PathBuf,
    log: PathBuf,
    /// Where its tub listens; 0 for a client, which has none.
    port: u16,
    child: Option<Child>,
}

impl Node {
    /// Starts to create a node directory; [`Node::finish_create`] waits for it.
    fn create(tahoe: &Path, name: &str, temp: &Path, args: &[String]) -> Node {
        let dir = temp.join(name);
        let log = temp.join(format!("{name}.log"));
        let mut node =
            Node { name: name.to_owned(), dir, tahoe: tahoe.to_owned(), log, port: tub_port(args), child: None };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        node.spawn(&args);
        node
    }

    fn finish_create(&mut self) {
        let status = self.child.take().expect("being created").wait().expect("a child of ours");
        assert!(status.success(), "tahoe could not create {}:\n{}", self.name, self.last_words());
    }

    fn run(&mut self) {
        self.spawn(&["run", "--allow-stdin-close"]);
    }

    /// Starts `tahoe ARGS DIR`. It stays in the test's process group, so that whoever kills the test kills it too.
    fn spawn(&mut self, args: &[&str]) {
        let log = fs::File::options().create(true).append(true).open(&self.log).expect("a log file");
        let child = Command::new(&self.tahoe)
            .args(args)
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{} does not start: {e}", self.tahoe.display()));
        self.child = Some(child);
    }

    fn set_option(&self, key: &str, value: &str) {
        let file = self.dir.join("tahoe.cfg");
        let old = fs::read_to_string(&file).expect("tahoe.cfg");
        let is_key = |line: &str| line.split('=').next().is_some_and(|k| k.trim() == key);
        assert!(old.lines().any(is_key), "tahoe.cfg has no {key}");
        let new: String = old
            .lines()
            .map(|line| if is_key(line) { format!("{key} = {value}\n") } else { format!("{line}\n") })
            .collect();
        fs::write(&file, new).expect("tahoe.cfg");
    }

    /// Brings the files of the node directory, which has never run, into `dir`, and makes that the node directory.
    fn move_to(&mut self, dir: &Path) {
        copy_tree(&self.dir, dir);
        for stale in ["running.process", "running.process.lock"] {
            let _ = fs::remove_file(dir.join(stale));
        }
        self.dir = dir.to_owned();
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let child = self.child.as_ref().expect("a running node");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().cast_signed()), signal).expect("a child of ours");
    }

    fn stop(&mut self) {
        if self.child.is_none() {
            return;
        }
        self.signal(nix::sys::signal::Signal::SIGTERM);
        let Some(mut child) = self.child.take() else { return };
        let deadline = Instant::now() + STOP_LIMIT;
        while child.try_wait().expect("a child of ours").is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("--- {} ---\n{}\n", self.name, lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn wait_until(deadline: Instant, nodes: &[&Node], what: &str, mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        if Instant::now() > deadline {
            let words: String = nodes.iter().map(|node| node.last_words()).collect();
            panic!("waited {} s in vain until {what}\n{words}", START_LIMIT.as_secs());
        }
        sleep(Duration::from_millis(100));
    }
}

/// The reference's command: what `tests/run` names, else what it installed earlier.
fn tahoe_command() -> PathBuf {
    if let Some(named) = std::env::var_os("TAHOEFS_TEST_TAHOE") {
        return PathBuf::from(named);
    }
    let is_set = |path: &PathBuf| path.is_absolute();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(is_set);
    let cache = cache.or_else(|| std::env::home_dir().filter(is_set).map(|home| home.join(".cache")));
    let installed = cache.map(|cache| cache.join("tahoefs-tests/venv/bin/tahoe")).filter(|path| path.exists());
    installed.expect("the reference implementation is not installed: call tests/run once, or set TAHOEFS_TEST_TAHOE")
}

fn tub_options(command: &str) -> Vec<String> {
    let port = free_port();
    vec![
        command.to_owned(),
        format!("--port=tcp:{port}:interface=127.0.0.1"),
        format!("--location=tcp:127.0.0.1:{port}"),
    ]
}

fn tub_port(args: &[String]) -> u16 {
    let port = args.iter().find_map(|arg| arg.strip_prefix("--port=tcp:")?.split(':').next()?.parse().ok());
    port.unwrap_or(0)
}

/// A port nobody listens on, below those that outgoing connections are given, and not one given out before.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 600) as u16 * 20;
    loop {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Copies what is in `from` into `to`, which may exist; `to` keeps what `from` does not have.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory to copy to");
    let output = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).output().expect("cp starts");
    text_of(&output, "cp");
}

fn text_of(output: &Output, what: &str) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed ({}): {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_grid_serves_files_and_directories() {
    let mut grid = Grid::start(GridSpec { servers: fresh(5), needed: 3, happy: 5, total: 5 });
    let cache = fs::read_to_string(grid.client_dir().join("private/introducer_default_cache.yaml")).unwrap();
    for i in 0..5 {
        let id = fs::read_to_string(grid.server_dir(i).join("node.pubkey")).unwrap();
        let id = id.trim().strip_prefix("pub-").expect("a public key");
        assert!(cache.contains(id), "server {i} is announced");
    }

    let data: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
    let file = grid.put(&data, "CHK");
    assert!(file.starts_with("URI:CHK:") && file.ends_with(":3:5:300000"), "{file}");
    assert_eq!(grid.get(&file, ""), data);
    let report = grid.check(&file, true);
    assert_eq!(report["results"]["count-good-share-hosts"], 5, "{report}");

    let root = grid.mkdir("SDMF");
    let below = grid.mkdir_at(&root, "below");
    grid.put_at(&root, "below/\u{e9}t\u{e9} 100%.txt", b"summer");
    grid.link(&root, "file", &file);
    assert_eq!(grid.get(&below, "\u{e9}t\u{e9} 100%.txt"), b"summer");
    grid.rename(&root, "file", "renamed");
    assert_eq!(grid.names(&root), ["below", "renamed"]);
    assert_eq!(grid.list_json(&root, "renamed")[1]["size"], 300_000);
    assert_eq!(grid.tahoe(&["ls", &root]), "below\nrenamed\n");
    grid.delete(&root, "below");
    assert_eq!(grid.names(&root), ["renamed"]);

    grid.stop_server(0);
    grid.stop_server(1);
    assert_eq!(grid.get(&root, "renamed"), data, "three servers are enough");
}

#[test]
fn a_grid_takes_stores_over() {
    let mut first = Grid::start(GridSpec { servers: fresh(2), needed: 1, happy: 2, total: 2 });
    let root = first.mkdir("MDMF");
    first.put_at(&root, "name", b"one version");
    first.stop();

    let moved = tempfile::tempdir().unwrap();
    let moved = moved.path().join("store");
    copy_tree(first.server_dir(1), &moved);
    let servers = vec![ServerSpec::CopyOf(first.server_dir(0).to_owned()), ServerSpec::InPlace(moved.clone())];
    let second = Grid::start(GridSpec { servers, needed: 1, happy: 2, total: 2 });
    assert_eq!(second.server_dir(1), moved);
    for i in 0..2 {
        for id in ["my_nodeid", "node.pubkey", "private/node.pem"] {
            let (before, after) = (first.server_dir(i).join(id), second.server_dir(i).join(id));
            assert_eq!(fs::read(before).unwrap(), fs::read(after).unwrap(), "{id} of server {i} stays");
        }
    }
    // A write enabler hashes the server's tub id: only the same identity can change what the first grid wrote.
    second.put_at(&root, "name", b"another version");
    assert_eq!(second.get(&root, "name"), b"another version");
}

/// Servers with an identity and a store of their own.
pub fn fresh(count: usize) -> Vec<ServerSpec> {
    (0..count).map(|_| ServerSpec::Fresh).collect()
}
