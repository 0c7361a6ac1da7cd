//! What a mount tells of what it does: operations in `status`, `status --watch`, and figures for Prometheus.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::cli::content;
use crate::mount::world::{World, said};

/// How long anything may take that has no reason to.
const PATIENCE: Duration = Duration::from_secs(60);

fn operations(world: &World) -> Value {
    let status = world.ok(&["status".as_ref(), "--json".as_ref(), world.mountpoint().as_os_str()]);
    let status: Value = serde_json::from_str(&status).unwrap();
    status["operations"].clone()
}

fn sum(operations: &Value, kind: &str, of: &str) -> u64 {
    let sums = operations["sums"].as_array().unwrap();
    sums.iter().find(|s| s["kind"] == kind).unwrap()[of].as_u64().unwrap()
}

fn recent<'a>(operations: &'a Value, kind: &str) -> Vec<&'a Value> {
    operations["recent"].as_array().unwrap().iter().filter(|o| o["kind"] == kind).collect()
}

fn ask(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The figures, from where they are told.
fn figures(stream: impl Read + Write) -> String {
    let answer = ask(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    body.to_owned()
}

/// The sum of a figure over all its labels.
fn figure(body: &str, name: &str) -> f64 {
    let lines = body.lines().filter(|line| !line.starts_with('#'));
    let of_name = lines.filter(|line| line.split(['{', ' ']).next() == Some(name));
    let values: Vec<f64> = of_name.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert!(!values.is_empty(), "{name} in {body}");
    values.iter().sum()
}

#[test]
fn operations_are_told_with_their_progress_and_time() {
    const SIZE: u64 = 3_000_000;
    let world = World::mounted();
    fs::write(world.at("f"), content(SIZE as usize)).unwrap();
    world.ok(&["flush"]);
    let told = operations(&world);
    assert_eq!((sum(&told, "upload", "begun"), sum(&told, "upload", "bytes")), (1, SIZE), "{told}");
    assert!(sum(&told, "publish", "begun") > 0 && sum(&told, "publish", "failed") == 0, "{told}");
    let upload = recent(&told, "upload")[0];
    assert_eq!((&upload["bytes"], &upload["size"], &upload["state"]), (&SIZE.into(), &SIZE.into(), &"done".into()));
    assert!(upload["seconds"].as_f64().unwrap() > 0.0 && upload["storage_index"].as_str().unwrap().len() == 8);
    let text = world.ok(&["status".as_ref(), world.mountpoint().as_os_str()]);
    let words = format!("  upload of {} at ", upload["storage_index"].as_str().unwrap());
    assert!(text.lines().any(|line| line.starts_with(&words) && line.ends_with(", done")), "{text}");

    world.remount_cold(&[]);
    assert_eq!(fs::read(world.at("f")).unwrap(), content(SIZE as usize));
    let told = operations(&world);
    // Its segments are one operation, though each is fetched by itself.
    let download = recent(&told, "download");
    assert_eq!((download.len(), &download[0]["bytes"]), (1, &SIZE.into()), "{told}");
    assert!(sum(&told, "retrieve", "begun") > 0, "{told}");
    assert_eq!(sum(&told, "upload", "begun"), 0, "the sums are those of the mount");
}

#[test]
fn who_opens_a_file_again_fetches_nothing_again() {
    let world = World::mounted();
    fs::write(world.at("f"), content(500_000)).unwrap();
    world.remount_cold(&[]);
    let fetched = || sum(&operations(&world), "download", "bytes");
    let read = || fs::File::open(world.at("f")).unwrap().read_exact(&mut [0; 10]).unwrap();
    read();
    let once = fetched();
    assert!(once > 0);
    (0..3).for_each(|_| read());
    assert_eq!(fetched(), once);
}

#[test]
fn what_failed_is_told_with_its_reason() {
    let world = World::mounted();
    world.ok(&["flush"]);
    let stores = world.node_directory().join("tahoefs/stores");
    fs::rename(&stores, stores.with_extension("away")).unwrap();
    fs::write(world.at("f"), content(100_000)).unwrap();
    let flush = world.run(&["flush"]);
    assert_eq!(flush.status.code(), Some(4), "{}", said(&flush));
    let told = operations(&world);
    let failed: Vec<&Value> = told["recent"].as_array().unwrap().iter().filter(|o| o["state"] == "failed").collect();
    assert!(!failed.is_empty() && failed.iter().all(|o| o["error"].is_string()), "{told}");
    fs::rename(stores.with_extension("away"), &stores).unwrap();
}

#[test]
fn figures_are_told_on_a_socket_to_who_may() {
    let world = World::new();
    let socket = world.home().join("figures.sock");
    let option = format!("metrics={}", socket.display());
    world.mount(&["-o", &option]);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let before = figures(connect(&socket));
    fs::write(world.at("f"), content(2_000_000)).unwrap();
    world.ok(&["flush"]);
    let after = figures(connect(&socket));
    let grown = |name: &str| figure(&after, name) - figure(&before, name);
    assert!(grown("tahoefs_server_sent_bytes_total") >= 2_000_000.0 * 5.0 / 3.0, "{after}");
    assert!(grown("tahoefs_operations_total") >= 2.0, "{after}");
    assert_eq!(grown("tahoefs_operations_failed_total"), 0.0);
    assert_eq!((figure(&after, "tahoefs_servers"), figure(&after, "tahoefs_queue_changes")), (5.0, 0.0));
    assert_eq!(figure(&after, "tahoefs_servers_up"), 5.0);
    world.unmount();
    world.mount(&["-o", &option]);
    for _ in 0..3 {
        assert_eq!(fs::read(world.at("f")).unwrap(), content(2_000_000));
    }
    let read = figures(connect(&socket));
    assert!(figure(&read, "tahoefs_server_received_bytes_total") >= 2_000_000.0, "{read}");
    assert!(figure(&read, "tahoefs_cache_misses_total") >= 2.0, "{read}");

    // One that was left by a process that was killed is no obstacle.
    kill(Pid::from_raw(world.daemon()), Signal::SIGKILL).unwrap();
    let until = Instant::now() + PATIENCE;
    let unmount = [OsStr::new("unmount"), world.mountpoint().as_os_str()].map(OsStr::to_owned);
    while world.is_mounted() {
        world.run(&unmount);
        assert!(Instant::now() < until);
    }
    assert!(socket.exists());
    world.mount(&["-o", &option]);
    figures(connect(&socket));

    // Another mount cannot have it.
    world.ok(&["create-alias", "work"]);
    let second = world.home().join("Second");
    let output = world.run(&["mount".as_ref(), "-o".as_ref(), option.as_ref(), "work:".as_ref(), second.as_os_str()]);
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("another process has it"), "{}", said(&output));
    figures(connect(&socket));
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let world = World::new();
    world.ok(&["init"]);
    let file = world.home().join("file");
    fs::write(&file, "kept").unwrap();
    let mountpoint = world.mountpoint();
    let mount = |option: String| world.run(&["mount".as_ref(), "-o".as_ref(), option.as_ref(), mountpoint.as_os_str()]);
    let output = mount(format!("metrics={}", file.display()));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
    let output = mount(format!("metrics={}", mountpoint.join("x.sock").display()));
    assert_eq!(output.status.code(), Some(6), "{}", said(&output));
    assert!(said(&output).contains("in the mount itself"), "{}", said(&output));
    for other in ["metrics=0.0.0.0:9100", "metrics=192.168.1.1:9100", "metrics=x.sock"] {
        let output = mount(other.into());
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("of this computer alone"), "{}", said(&output));
    }
    assert!(!world.is_mounted());
}

#[test]
fn strangers_on_the_port_do_no_harm() {
    let world = World::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    world.mount(&["-o", &format!("metrics={address}")]);
    let connect = || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    figures(connect());
    for (request, status) in [
        ("GET /other HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n", "403"),
        ("\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = ask(connect(), request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
    }
    // A head without an end, one too long, and many who say nothing.
    let mut long = connect();
    let _ = long.write_all(&vec![b'x'; 100_000]);
    let mut answer = String::new();
    let _ = long.read_to_string(&mut answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let silent: Vec<TcpStream> = (0..20).map(|_| connect()).collect();
    figures(connect());
    drop(silent);
    fs::write(world.at("f"), "the mount goes on").unwrap();
    world.ok(&["flush"]);
}

#[test]
fn what_is_watched_is_shown_again_and_again_until_it_ends() {
    let world = World::mounted();
    let mountpoint = world.mountpoint();
    let watch = |flags: &[&str]| {
        let mut arguments: Vec<&OsStr> = vec!["status".as_ref(), "--watch".as_ref()];
        arguments.extend(flags.iter().map(OsStr::new));
        arguments.push(mountpoint.as_os_str());
        let mut command = world.command(&arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut blocks = watch(&[]);
    let heading = format!("tahoe: on {} ", mountpoint.display());
    let mut headings = 0;
    let mut lines = BufReader::new(blocks.stdout.take().unwrap()).lines().map(Result::unwrap);
    while headings < 2 {
        let line = lines.next().expect("it goes on");
        assert!(!line.contains('\u{1b}'), "{line:?}");
        headings += usize::from(line.starts_with(&heading));
    }
    // Who has seen enough hangs up.
    drop(lines);
    assert!(blocks.wait().unwrap().success());

    let mut json = watch(&["--json"]);
    let lines = BufReader::new(json.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = 0;
    for line in lines {
        let status: Value = serde_json::from_str(&line).unwrap();
        assert!(status["queue"]["left"].is_object(), "{line}");
        seen += 1;
        if seen == 2 {
            world.unmount();
        }
    }
    assert!(seen >= 2);
    assert_eq!(json.wait().unwrap().code(), Some(6), "the mount is no more");
}

#[test]
fn on_a_terminal_a_page_takes_the_place_of_the_one_before() {
    let world = World::mounted();
    let watched = format!("{} status --watch", env!("CARGO_BIN_EXE_tahoefs"));
    let mut command = Command::new("script");
    command.args(["-q", "-e", "-c", &watched, "/dev/null"]).env_clear();
    command.env("TAHOEFS_NODE_DIRECTORY", world.node_directory()).env("TERM", "xterm");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let mut terminal = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut shown = Vec::new();
    let mut output = terminal.stdout.take().unwrap();
    let until = Instant::now() + PATIENCE;
    while shown.windows(3).filter(|w| w == b"\x1b[H").count() < 2 {
        let mut piece = [0; 4096];
        let length = output.read(&mut piece).unwrap();
        assert!(length > 0 && Instant::now() < until, "{}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&piece[..length]);
    }
    terminal.kill().unwrap();
    terminal.wait().unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert_eq!(shown.matches("\x1b[2J").count(), 1, "the terminal is cleared once: {shown:?}");
    assert!(shown.contains("5 of 5 answer"), "{shown:?}");
}
