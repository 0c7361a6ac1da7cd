//! The command line: the binary itself, in a home directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use data_encoding::BASE64;

/// A home directory and the program in it.
pub struct Home {
    pub top: tempfile::TempDir,
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command with this standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read its input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

impl Home {
    pub fn new() -> Home {
        Home { top: tempfile::tempdir().unwrap() }
    }

    /// With a node directory.
    pub fn initialised() -> Home {
        let home = Home::new();
        home.ok(["-q", "init"]);
        home
    }

    /// With the alias `tahoe:` too.
    pub fn with_alias() -> Home {
        let home = Home::initialised();
        home.ok(["create-alias", "tahoe"]);
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tahoefs"));
        command.args(arguments).env_clear().env("HOME", self.top.path()).current_dir(self.top.path());
        feed(&mut command, input)
    }

    /// Runs what must succeed; its standard output.
    pub fn ok_with<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Vec<u8> {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    }

    pub fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        text(&self.ok_with(arguments, b""))
    }

    /// Runs what must fail with this code; its one line, which holds no cap.
    pub fn fails_with<S: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = S>,
        input: &[u8],
    ) -> String {
        let output = self.run(arguments, input);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(line.starts_with("tahoefs: ") && line.ends_with('\n') && line.matches('\n').count() == 1, "{line}");
        // A kind may be named, as in `malformed URI:DIR2: capability`, its body never.
        let bodies = line.split("URI:").skip(1).filter_map(|rest| rest.split_once(':'));
        assert!(bodies.into_iter().all(|(_, body)| body.starts_with(' ')), "{line}");
        assert_eq!(text(&output.stdout), "");
        line
    }

    pub fn fails<S: AsRef<OsStr>>(&self, code: i32, arguments: impl IntoIterator<Item = S>) -> String {
        self.fails_with(code, arguments, b"")
    }

    pub fn store(&self, number: usize) -> PathBuf {
        self.path(&format!(".tahoefs/tahoefs/stores/store-{number}"))
    }

    /// Removes all shares of the first `count` stores.
    pub fn empty_stores(&self, count: usize) {
        for number in 1..=count {
            let shares = self.store(number).join("storage/shares");
            fs::remove_dir_all(&shares).unwrap();
            fs::create_dir(&shares).unwrap();
        }
    }
}

pub fn content(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    tahoefs::util::Rng::seeded(length as u64).fill(&mut bytes);
    bytes
}

#[test]
fn a_file_comes_back_as_it_was_put() {
    let home = Home::with_alias();
    let data = content(700_001);
    let file = home.write("some file", &data);
    let cap = home.ok([OsStr::new("put"), file.as_os_str()]);
    assert!(cap.starts_with("URI:CHK:") && cap.ends_with(":3:5:700001\n"), "{cap}");
    assert_eq!(home.ok_with(["put"], &data), cap.as_bytes(), "the same content has the same cap");
    assert_eq!(home.ok_with(["get", "-"], cap.as_bytes()), data);

    assert_eq!(home.ok([OsStr::new("put"), file.as_os_str(), OsStr::new("tahoe:new/dir/")]), "");
    assert_eq!(home.ok(["ls", "tahoe:new/dir"]), "some file\n");
    home.ok(["get", "new/dir/some file", "back"]);
    assert_eq!(fs::read(home.path("back")).unwrap(), data);
    home.write("cap", cap.as_bytes());
    home.ok(["get", "--cap-file", "cap", "again"]);
    assert_eq!(fs::read(home.path("again")).unwrap(), data);

    home.ok_with(["put", "-", "tahoe:new/short"], b"short");
    assert_eq!(home.ok(["get", "tahoe:new/short", "-"]), "short");
    home.ok_with(["put", "-", "tahoe:new/short"], b"other");
    assert_eq!(home.ok(["get", "tahoe:new/short"]), "other");
    assert_eq!(home.ok(["ls", "new"]), "dir\nshort\n");
    home.ok(["rm", "tahoe:new/dir"]);
    assert_eq!(home.ok(["ls", "new"]), "short\n");
    assert_eq!(fs::read_dir(home.path(".tahoefs/tahoefs/tmp")).unwrap().count(), 0);
}

#[test]
fn a_listing_says_what_there_is() {
    let home = Home::with_alias();
    home.ok(["mkdir", "tahoe:ü/sub"]);
    home.ok_with(["put", "-", "tahoe:ü/lit"], b"short");
    home.ok_with(["put", "-", "tahoe:ü/chk"], &content(60));
    home.ok_with(["put", "--format", "sdmf", "-", "tahoe:ü/mutable"], b"x");
    let listing: serde_json::Value = serde_json::from_str(&home.ok(["ls", "--json", "tahoe:u\u{308}"])).unwrap();
    assert_eq!((&listing["type"], &listing["writeable"]), (&"directory".into(), &true.into()));
    let rows: Vec<String> = listing["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            assert!(r["mtime"].as_f64().unwrap() > 1e9);
            format!("{} {} {} {} {} {}", r["name"], r["type"], r["format"], r["size"], r["mutable"], r["writeable"])
        })
        .collect();
    assert_eq!(
        rows,
        [
            r#""chk" "file" "CHK" 60 false false"#,
            r#""lit" "file" "LIT" 5 false false"#,
            r#""mutable" "file" "SDMF" null true true"#,
            r#""sub" "directory" "SDMF" null true true"#,
        ]
    );
    let long = home.ok(["ls", "-l", "tahoe:ü"]);
    assert!(long.starts_with("-r-           60 20") && long.contains("\ndrw "), "{long}");
    let one = home.ok(["ls", "--json", "tahoe:ü/lit"]);
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!((&one["type"], &one["entries"][0]["name"]), (&"file".into(), &"lit".into()));
}

#[test]
fn mutable_files_are_overwritten_in_place() {
    let home = Home::with_alias();
    for (format, scheme) in [("SDMF", "URI:SSK:"), ("MDMF", "URI:MDMF:")] {
        let cap = text(&home.ok_with(["put", "--format", format, "-"], b"one"));
        assert!(cap.starts_with(scheme), "{cap}");
        home.write("cap", cap.as_bytes());
        home.write("two", b"two");
        home.ok(["put", "two", "--cap-file", "cap"]);
        assert_eq!(home.ok_with(["get", "-"], cap.as_bytes()), b"two");

        let place = format!("tahoe:{format}");
        home.ok_with(["put", "--format", format, "-", &place], b"one");
        let before = home.ok(["ls", "--json", &place]);
        assert!(before.contains(&format!("\"{format}\"")), "{before}");
        home.ok_with(["put", "-", &place], b"three");
        assert_eq!(home.ok(["get", &place]), "three");
        assert_eq!(home.ok(["ls", "--json", &place]), before, "the entry is as it was");
    }
}

#[test]
fn directories_follow_the_format_of_the_settings() {
    let home = Home::with_alias();
    let made = |arguments: &[&str]| home.ok(arguments.iter().copied());
    assert!(made(&["mkdir"]).starts_with("URI:DIR2:"));
    assert!(made(&["mkdir", "--format", "MDMF"]).starts_with("URI:DIR2-MDMF:"));
    made(&["mkdir", "--format", "MDMF", "tahoe:mdmf"]);
    let settings = home.top.path().join(".tahoefs/tahoe.cfg");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, text.replace("[client]\n", "[client]\nmutable.format = mdmf\n")).unwrap();
    assert!(made(&["mkdir"]).starts_with("URI:DIR2-MDMF:"));
    assert!(made(&["mkdir", "--format", "SDMF"]).starts_with("URI:DIR2:"));
    home.ok_with(["put", "-", "tahoe:mdmf/made/file"], b"content");
    assert!(made(&["ls", "--json", "tahoe:mdmf"]).contains("\"MDMF\""));
    assert_eq!(made(&["get", "tahoe:mdmf/made/file"]), "content");
}

#[test]
fn a_mutable_file_takes_a_given_key() {
    let home = Home::initialised();
    let key = tahoefs::crypto::SigningKey::generate(&tahoefs::util::Rng::seeded(11));
    let pem =
        |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64.encode(der));
    home.write("pkcs8", pem("PRIVATE KEY", key.pkcs8_der()).as_bytes());
    // The PKCS#1 key is what the PKCS#8 wraps: 26 bytes of head before it.
    home.write("pkcs1", pem("RSA PRIVATE KEY", &key.pkcs8_der()[26..]).as_bytes());
    let write_key = tahoefs::crypto::secrets::write_key(key.pkcs8_der());
    let wanted = format!("URI:SSK:{}:", tahoefs::util::base32::encode(write_key.as_bytes()));
    for name in ["pkcs8", "pkcs1"] {
        // A grid of its own each time: one that holds the file already refuses to make it.
        home.ok(["-q", "-d", &format!("node-{name}"), "init"]);
        let node = format!("node-{name}");
        let cap = text(&home.ok_with(["-d", &node, "put", "--format=SDMF", "--private-key-path", name], b"x"));
        assert!(cap.starts_with(&wanted), "{name}");
    }
    home.write("none", b"nothing");
    home.fails(2, ["put", "--format=SDMF", "--private-key-path", "none", "pkcs8"]);
    home.fails(2, ["put", "--private-key-path", "pkcs8", "pkcs8"]);
}

#[test]
fn init_makes_what_is_asked_for() {
    let home = Home::new();
    let said = text(&home.run(["init", "--stores", "4", "--needed", "2", "--happy", "3", "--total", "8"], b"").stderr);
    assert!(said.contains("export-keys") && said.contains("no backup"), "{said}");
    let cfg = fs::read_to_string(home.path(".tahoefs/tahoe.cfg")).unwrap();
    for line in ["shares.needed = 2", "shares.happy = 3", "shares.total = 8"] {
        assert!(cfg.contains(line), "{cfg}");
    }
    assert_eq!(home.ok(["store", "list"]).lines().count(), 4);
    home.fails(1, ["init"]);
    let mode = |name: &str| fs::metadata(home.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(".tahoefs"), mode(".tahoefs/private"), mode(".tahoefs/private/secret")), (0o700, 0o700, 0o600));
    home.fails(2, ["-d", "other", "init", "--stores", "2", "--happy", "3"]);
    assert!(!home.path("other").exists());
    home.ok(["-q", "-d", "one", "init", "--stores", "1"]);
    let cap = text(&home.ok_with(["-d", "one", "put"], &content(100)));
    assert!(cap.ends_with(":1:1:100\n"), "{cap}");
}

#[test]
fn aliases_come_and_stay_private() {
    let home = Home::with_alias();
    let aliases = home.path(".tahoefs/private/aliases");
    assert_eq!(fs::metadata(&aliases).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(&aliases).unwrap(), home.ok(["list-aliases"]));
    let directory = home.ok(["mkdir"]);
    assert!(directory.starts_with("URI:DIR2:"), "{directory}");
    home.ok_with(["add-alias", "work:"], directory.as_bytes());
    home.write("cap", directory.as_bytes());
    home.ok(["add-alias", "more", "--cap-file", "cap"]);
    assert!(home.ok(["list-aliases"]).contains(&format!("work: {directory}")));
    let json: serde_json::Value = serde_json::from_str(&home.ok(["list-aliases", "--json"])).unwrap();
    assert_eq!(json["more"]["readwrite"], directory.trim());
    assert!(json["more"]["readonly"].as_str().unwrap().starts_with("URI:DIR2-RO:"));
    home.fails(1, ["create-alias", "work"]);
    home.fails_with(2, ["add-alias", "URI"], directory.as_bytes());
    home.fails_with(2, ["add-alias", "a/b"], directory.as_bytes());
    home.fails_with(2, ["add-alias", "file"], b"URI:LIT:krugkidf");
    home.fails_with(2, ["add-alias", "bad"], b"URI:DIR2:mfrgg:mfrgg");
    home.fails_with(2, ["add-alias", "none"], b" \n");
    home.ok_with(["put", "-", "work:x"], b"1");
    assert_eq!(home.ok(["get", "more:x"]), "1");
}

#[test]
fn errors_have_their_exit_codes() {
    let none = Home::new();
    for command in [
        &["ls"][..],
        &["put", "/dev/null"],
        &["store", "list"],
        &["export-keys", "k"],
        &["status"],
        &["mount", "x:", "m"],
    ] {
        assert!(none.fails(3, command).contains("tahoefs init"));
    }
    assert_eq!(fs::read_dir(none.top.path()).unwrap().count(), 0, "nothing was made");

    let home = Home::with_alias();
    home.write("file", b"content");
    for arguments in [
        &["nonesuch"][..],
        &[],
        &["ls", "--nonesuch"],
        &["get"],
        &["rm", "tahoe:"],
        &["ls", ":x"],
        &["put", "-", "-"],
        &["put", "-", "tahoe:"],
        &["put", "--format", "LDMF", "file"],
        &["mkdir", "--format", "CHK"],
        &["mount", "-o", "durability=never", "m"],
        &["mount", "-o", "nonesuch", "m"],
        &["mount", "-o", "uid=nobody", "m"],
    ] {
        home.fails(2, arguments);
    }
    for arguments in [
        &["ls", "tahoe:nothing"][..],
        &["get", "nothing:x"],
        &["rm", "nothing"],
        &["put", "nothing"],
        &["ls", "--cap-file", "nothing"],
        &["import-keys", "nothing"],
    ] {
        let arguments =
            [
                &[
                    "-d".as_ref(),
                    if arguments[0] == "import-keys" { OsStr::new("new") } else { OsStr::new(".tahoefs") },
                ][..],
                &arguments.iter().map(OsStr::new).collect::<Vec<_>>(),
            ]
            .concat();
        home.fails(3, arguments);
    }
    home.ok(["put", "file", "tahoe:file"]);
    assert!(home.fails(3, ["ls", "tahoe:file/x"]).contains("tahoe:file: is not a directory"));
    home.fails(1, ["get", "tahoe:"]);
    home.fails_with(2, ["ls", "-"], b"what is this");
    home.fails_with(2, ["ls", "-"], b"URI:CHK:aaa:bbb:1:2:3");
    assert!(!home.path("m").exists() && !home.path("new").exists());
}

#[test]
fn read_caps_do_not_write() {
    let home = Home::with_alias();
    home.ok_with(["put", "-", "tahoe:sub/x"], b"1");
    home.ok_with(["put", "--format=SDMF", "-", "tahoe:m"], b"1");
    let json: serde_json::Value = serde_json::from_str(&home.ok(["list-aliases", "--json"])).unwrap();
    home.ok_with(["add-alias", "ro"], json["tahoe"]["readonly"].as_str().unwrap().as_bytes());
    assert_eq!(home.ok(["get", "ro:sub/x"]), "1");
    home.fails_with(5, ["put", "-", "ro:y"], b"2");
    home.fails_with(5, ["put", "-", "ro:m"], b"2");
    home.fails_with(5, ["put", "-", "ro:sub/y"], b"2");
    home.fails(5, ["mkdir", "ro:dir"]);
    home.fails(5, ["rm", "ro:sub"]);
    assert_eq!(home.ok(["ls", "tahoe:"]), "m\nsub\n");
}

#[test]
fn too_few_shares_or_servers_are_said() {
    let home = Home::with_alias();
    let data = content(100_000);
    home.ok_with(["put", "-", "tahoe:file"], &data);
    let cap = text(&home.ok_with(["put"], &data));
    home.empty_stores(2);
    assert_eq!(home.ok_with(["get", "tahoe:file"], b""), data, "three of five stores suffice");
    home.empty_stores(3);
    home.write("cap", cap.as_bytes());
    home.fails(4, ["get", "--cap-file", "cap", "half"]);
    assert!(!home.path("half").exists());
    assert!(fs::read_dir(home.top.path()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().contains("part")));
    home.fails(4, ["ls"]);

    let away = Home::with_alias();
    fs::rename(away.store(1), away.path("elsewhere")).unwrap();
    assert!(away.ok(["store", "list"]).contains("missing"));
    assert!(away.ok(["status"]).contains("missing"));
    away.fails_with(4, ["put"], &content(100_000));
    assert!(!away.store(1).exists(), "a store that is away is not made anew");
    away.ok(["ls"]);
    fs::rename(away.path("elsewhere"), away.store(1)).unwrap();
    away.ok_with(["put"], &data);
}

#[test]
fn capabilities_as_arguments_are_refused_unseen() {
    let home = Home::with_alias();
    let cap = text(&home.ok_with(["put"], &content(100)));
    for arguments in [["get", cap.trim()], ["ls", cap.trim()], ["mount", cap.trim()], ["--nonesuch", cap.trim()]] {
        assert!(home.fails(2, arguments).contains("--cap-file"));
    }
}

#[test]
fn keys_bring_a_lost_node_directory_back() {
    let home = Home::with_alias();
    let data = content(200_000);
    home.ok_with(["put", "-", "tahoe:kept"], &data);
    let servers = "# mine\nstorage:\n  far away:\n    ann: {nickname: \"f\"}\n    connections: {tcp: tor}\n";
    home.write(".tahoefs/private/servers.yaml", servers.as_bytes());
    home.ok(["export-keys", "keys"]);
    assert_eq!(fs::metadata(home.path("keys")).unwrap().permissions().mode() & 0o777, 0o600);
    home.fails(1, ["export-keys", "keys"]);
    fs::rename(home.path(".tahoefs/tahoefs/stores"), home.path("stores")).unwrap();
    fs::remove_dir_all(home.path(".tahoefs")).unwrap();
    fs::remove_dir_all(home.path("stores/store-5")).unwrap();

    let mut arguments = vec!["import-keys".to_owned(), "keys".to_owned()];
    for number in 1..=4 {
        arguments.extend(["--store".to_owned(), format!("stores/store-{number}")]);
    }
    let output = home.run(&arguments, b"");
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("`store-5` is missing"), "{said}");
    assert!(said.contains("4 of 5 stores") && said.contains("The store `store-1` is at "), "{said}");
    assert!(said.contains("nothing new can be stored"), "{said}");
    let brought = home.path(".tahoefs/private/servers.yaml");
    assert_eq!(fs::read_to_string(&brought).unwrap(), servers);
    assert_eq!(fs::metadata(&brought).unwrap().permissions().mode() & 0o777, 0o600);
    let few = home.run(["-d", "few", "import-keys", "keys", "--store", "stores/store-2"], b"");
    let said = text(&few.stderr);
    assert!(said.contains("`store-2` is at") && said.contains("`store-1` is missing"), "{said}");
    assert!(said.contains("most files cannot be read"), "{said}");
    assert_eq!(home.ok_with(["get", "tahoe:kept"], b""), data);
    home.fails(1, ["import-keys", "keys"]);
}

#[test]
fn stores_are_managed() {
    let home = Home::with_alias();
    let data = content(50_000);
    home.ok_with(["put", "-", "tahoe:f"], &data);
    home.ok(["store", "move", "store-2", "disk/two"]);
    home.ok(["store", "add", "disk/six"]);
    let list = home.ok(["store", "list"]);
    assert!(list.contains("disk/two\tok") && list.contains("store-6"), "{list}");
    assert_eq!(home.ok_with(["get", "tahoe:f"], b""), data);
    home.ok(["store", "remove", "store-2"]);
    assert!(!home.ok(["store", "list"]).contains("store-2") && home.path("disk/two").exists());
    home.ok(["store", "add", "disk/two"]);
    assert!(home.ok(["store", "list"]).contains("disk/two\tok"));
    home.fails(2, ["store", "remove", "nonesuch"]);
    home.fails(2, ["store", "move", "nonesuch", "disk/x"]);
    home.fails(1, ["store", "move", "store-1", "disk/two"]);
    home.write("file", b"");
    home.fails(1, ["store", "add", "."]);
}

#[test]
fn a_client_without_stores_is_told_what_is_missing() {
    let home = Home::new();
    fs::create_dir_all(home.path(".tahoe/private")).unwrap();
    home.write(".tahoe/tahoe.cfg", b"[client]\nshares.happy = 1\n");
    assert!(home.fails(4, ["ls"]).contains("tahoefs store add"));
    assert!(!home.path(".tahoe/tahoefs").exists(), "nothing is made where nothing can be done");
    home.write(".tahoe/tahoe.cfg", b"[client]\n\n[connections]\ntcp = tor\n");
    assert!(home.fails(2, ["ls"]).contains("tahoe.cfg, line 4"));
    home.write(".tahoe/tahoe.cfg", b"[node]\nreveal-IP-address = false\n");
    assert!(home.fails(2, ["ls"]).contains("tahoe.cfg, line 2"));
    home.write(".tahoe/tahoe.cfg", b"nonsense\n");
    assert!(home.fails(2, ["ls"]).contains("tahoe.cfg, line 1"));
    let home = Home::with_alias();
    home.write(".tahoefs/private/servers.yaml", b"storage:\n  s:\n    connections: {tcp: tor}\n");
    assert!(home.fails(2, ["ls"]).contains("servers.yaml, line 2"));
    fs::remove_file(home.path(".tahoefs/private/servers.yaml")).unwrap();
    fs::create_dir(home.path(".tahoefs/access.blacklist")).unwrap();
    assert!(home.fails(1, ["ls"]).contains(".tahoefs/access.blacklist"));
    home.write(".tahoefs/tahoefs/config.toml", b"\nstore = 3\n");
    assert!(home.fails(2, ["store", "list"]).contains("config.toml, line 2"));
}

#[test]
fn a_mountpoint_that_cannot_be_is_refused() {
    let home = Home::with_alias();
    home.write("file", b"");
    fs::create_dir(home.path("mnt")).unwrap();
    for place in [".tahoefs/mnt", ".tahoefs/tahoefs/stores/store-1", ".", "file", "no/such/parent"] {
        home.fails(6, ["mount", place]);
    }
    assert!(home.fails(3, ["mount", "nonesuch:", "mnt"]).contains("nonesuch"));
    home.ok_with(["put", "-", "tahoe:x"], b"1");
    assert!(home.fails(1, ["mount", "tahoe:x", "mnt"]).contains("not a directory"));
    home.fails_with(2, ["mount", "-", "mnt"], b"URI:DIR2:mfrgg:mfrgg");
    home.fails_with(1, ["mount", "-", "new"], b"URI:LIT:krugkidf");
    assert!(!home.path("new").exists());
    home.fails(6, ["unmount", "mnt"]);
    home.fails(6, ["flush", "mnt"]);
    home.fails(6, ["status", "mnt"]);
}

/// Capability vectors of the reference, through the program: encoding from tahoe.cfg, convergence from its file.
#[test]
fn put_makes_the_references_caps() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/chk_vectors.json");
    let vectors: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let number = |v: &serde_json::Value, key: &str| v[key].as_u64().unwrap();
    let home = Home::new();
    home.ok(["-q", "init", "--stores", "1"]);
    let mut tried = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let (needed, total, length) = (number(vector, "k"), number(vector, "n"), number(vector, "length"));
        let cfg = format!(
            "[client]\nshares.needed = {needed}\nshares.happy = 1\nshares.total = {total}\n\
             shares._max_immutable_segment_size_for_testing = {}\n",
            number(vector, "segment_size")
        );
        home.write(".tahoefs/tahoe.cfg", cfg.as_bytes());
        let convergence = BASE64.decode(vector["convergence"].as_str().unwrap().as_bytes()).unwrap();
        let convergence = format!("{}\n", tahoefs::util::base32::encode(&convergence));
        home.write(".tahoefs/private/convergence", convergence.as_bytes());
        let seed = BASE64.decode(vector["seed"].as_str().unwrap().as_bytes()).unwrap();
        let plaintext: Vec<u8> = seed.iter().copied().cycle().take(length as usize).collect();
        let cap = text(&home.ok_with(["put"], &plaintext));
        assert_eq!(cap.trim_end(), vector["expected"].as_str().unwrap());
        tried += 1;
    }
    assert_eq!(tried, 84);
}

#[test]
fn get_replaces_files_and_writes_into_everything_else() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    let home = Home::new();
    home.ok(["-q", "init"]);
    home.ok(["create-alias", "tahoe"]);
    home.ok_with(["put", "-", "tahoe:x"], b"new");
    home.write("real", b"old content");
    home.write("plain", b"old content");
    fs::set_permissions(home.path("plain"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink(home.path("real"), home.path("link")).unwrap();
    home.ok(["get", "tahoe:x", "link"]);
    home.ok(["get", "tahoe:x", "plain"]);
    home.ok(["get", "tahoe:x", "/dev/null"]);
    assert!(fs::symlink_metadata(home.path("link")).unwrap().is_symlink());
    assert_eq!(fs::read(home.path("real")).unwrap(), b"new");
    assert_eq!(fs::read(home.path("plain")).unwrap(), b"new");
    assert_eq!(fs::metadata(home.path("plain")).unwrap().mode() & 0o777, 0o600);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
    home.ok(["help"]);
}

mod mounts {
    //! What the commands do with a mount.

    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use crate::mount::world::{World, said};

    fn unmount(world: &World, force: bool) -> std::process::Output {
        let mountpoint = world.mountpoint();
        let mut arguments = vec![OsStr::new("unmount"), mountpoint.as_os_str()];
        arguments.extend(force.then_some(OsStr::new("--force")));
        world.run(&arguments)
    }

    /// Waits for what happens soon; the runner ends a test that waits for ever.
    fn until(mut it_is_so: impl FnMut() -> bool) {
        while !it_is_so() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn ephemeral_files_are_stored_by_unmount_at_the_latest() {
        let world = World::new();
        world.mount(&["-o", "ephemeral=~$*:*.lock"]);
        let names = ["~$report.docx", "a.lock", "b.swp", "ordinary"];
        names.iter().for_each(|name| fs::write(world.at(name), name).unwrap());
        // Another client looks, without the mount.
        let other = World::beside(&world);
        until(|| other.ok(&["ls", "tahoe:"]) == "b.swp\nordinary\n");
        world.unmount();
        assert_eq!(other.ok(&["ls", "tahoe:"]), "a.lock\nb.swp\nordinary\n~$report.docx\n");
        world.mount(&["-o", "ephemeral="]);
        fs::write(world.at("c.swp"), "c").unwrap();
        until(|| other.ok(&["ls", "tahoe:"]).contains("c.swp"));
    }

    #[test]
    fn a_mount_whose_process_was_killed_is_told_and_removed() {
        let world = World::mounted();
        fs::write(world.at("f"), "kept").unwrap();
        world.ok(&["flush"]);
        let pid = world.daemon();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        until(|| fs::read(world.at("f")).is_err_and(|e| e.raw_os_error() == Some(libc::ENOTCONN)));
        let again = world.run(&[OsStr::new("mount"), world.mountpoint().as_os_str()]);
        assert!(again.status.code() == Some(6) && said(&again).contains("its process is gone"), "{}", said(&again));
        assert_eq!(unmount(&world, false).status.code(), Some(7));
        assert!(!world.is_mounted());
        world.mount(&[]);
        assert_eq!(fs::read_to_string(world.at("f")).unwrap(), "kept");
    }

    #[test]
    fn a_foreground_mount_stores_what_is_left_when_it_is_terminated() {
        let world = World::new();
        world.ok(&["init"]);
        let mountpoint = world.mountpoint();
        let mut child =
            world.command(&[OsStr::new("mount"), OsStr::new("-f"), mountpoint.as_os_str()]).spawn().unwrap();
        until(|| world.is_mounted());
        assert_eq!(world.daemon(), child.id() as i32);
        fs::write(world.at("f"), "written last").unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(!world.is_mounted());
        assert_eq!(world.ok(&["get", "tahoe:f"]), "written last");
    }

    #[test]
    fn an_unmount_without_the_grid_says_what_is_left_and_a_forced_one_leaves_it_behind() {
        let world = World::new();
        world.mount(&["-o", "deadline=2"]);
        let store = world.store(2);
        fs::rename(store.join("storage"), store.join("away")).unwrap();
        // Four stores of five make no upload happy: this stays pending, and close says so.
        let _ = fs::write(world.at("f"), [7; 5000]);
        let stays = unmount(&world, false);
        assert!(stays.status.code() == Some(7) && world.is_mounted(), "{}", said(&stays));
        for what in ["1 file of 4.88 KiB (f)", "(store-3: unreachable: ", "stays mounted", "--force", "tahoefs status"]
        {
            assert!(said(&stays).contains(what), "{what}: {}", said(&stays));
        }
        let flush = world.run(&["flush"]);
        assert!(flush.status.code() == Some(4) && said(&flush).contains("1 file of 4.88 KiB (f)"), "{}", said(&flush));
        let forced = unmount(&world, true);
        for what in ["unmounted; not on the grid yet", "kept in the journal", "1 file of 4.88 KiB"] {
            assert!(forced.status.code() == Some(7) && said(&forced).contains(what), "{what}: {}", said(&forced));
        }
        assert!(!world.is_mounted());
        fs::rename(store.join("away"), store.join("storage")).unwrap();
        world.mount(&[]);
        assert_eq!(fs::read(world.at("f")).unwrap(), [7; 5000], "the journal has kept it");
        world.unmount();
        world.mount(&[]);
        assert_eq!(fs::read(world.at("f")).unwrap(), [7; 5000], "and it has gone out");
    }

    #[test]
    fn an_unmount_waits_for_stores_that_come_back_before_the_deadline() {
        let world = World::mounted();
        let store = world.store(2);
        fs::rename(store.join("storage"), store.join("away")).unwrap();
        fs::write(world.at("f"), [7; 5000]).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| unmount(&world, false));
            let failed = "shares can be placed on 4 servers only";
            until(|| world.ok(&["status"]).contains(failed));
            std::thread::sleep(Duration::from_secs(2));
            assert!(!waiting.is_finished() && world.is_mounted());
            fs::rename(store.join("away"), store.join("storage")).unwrap();
            let unmounted = waiting.join().unwrap();
            assert!(unmounted.status.success() && !world.is_mounted(), "{}", said(&unmounted));
        });
        assert_eq!(world.run(&["get", "tahoe:f"]).stdout, [7; 5000]);
    }

    #[test]
    fn a_terminated_mount_without_the_grid_leaves_what_is_left_in_the_journal() {
        let world = World::new();
        world.ok(&["init"]);
        let mountpoint = world.mountpoint();
        let arguments = ["mount", "-f", "-o", "deadline=2"].map(OsStr::new);
        let mut command = world.command(&[&arguments[..], &[mountpoint.as_os_str()]].concat());
        let mut child = command.spawn().unwrap();
        until(|| world.is_mounted());
        let store = world.store(2);
        fs::rename(store.join("storage"), store.join("away")).unwrap();
        fs::write(world.at("f"), [7; 5000]).unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(7));
        assert!(!world.is_mounted());
        fs::rename(store.join("away"), store.join("storage")).unwrap();
        world.mount(&[]);
        assert_eq!(fs::read(world.at("f")).unwrap(), [7; 5000]);
        world.unmount();
    }

    #[test]
    fn commands_reach_the_mount_they_name() {
        let world = World::mounted();
        let status: serde_json::Value = serde_json::from_str(&world.ok(&["status", "--json"])).unwrap();
        let mount = &status["mounts"][0];
        assert_eq!(mount["mountpoint"].as_str().unwrap(), world.mountpoint().canonicalize().unwrap().to_str().unwrap());
        assert_eq!((&mount["source"], &mount["read_only"]), (&"tahoe:".into(), &false.into()));
        assert!(mount["servers"].as_array().unwrap().iter().all(|s| s["reachable"] == true));
        let run = fs::read_dir(world.node_directory().join("tahoefs/run")).unwrap();
        let modes: Vec<_> = run.map(|file| file.unwrap().metadata().unwrap().permissions().mode() & 0o777).collect();
        assert_eq!(modes, [0o600; 2], "the lock and the socket are their owner's");
        let busy = world.run(&["store", "add", "more"]);
        assert!(busy.status.code() == Some(1) && said(&busy).contains("in use"), "{}", said(&busy));
        fs::create_dir_all(world.at("a/b")).unwrap();
        world.ok(&[OsStr::new("flush"), world.at("a").as_os_str()]);
        assert_eq!(world.ok(&["ls", "tahoe:a"]), "b\n");
        world.ok(&["mkdir", "tahoe:other"]);
        // What is written in the mount is there for a command at once, and the other way round.
        fs::write(world.at("a/new"), "new").unwrap();
        fs::create_dir(world.at("a/dir")).unwrap();
        assert_eq!(world.ok(&["ls", "tahoe:a"]), "b\ndir\nnew\n");
        let listed = || {
            let names = fs::read_dir(world.at("a")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(listed(), "b dir new");
        world.ok(&["rm", "tahoe:a/new"]);
        world.ok(&["mkdir", "tahoe:a/made"]);
        world.ok(&["mv", "tahoe:a/dir", "tahoe:a/moved"]);
        assert_eq!(listed(), "b made moved");
        let (sub, other) = (world.home().join("sub"), world.home().join("elsewhere"));
        world.ok(&[OsStr::new("mount"), OsStr::new("tahoe:other"), sub.as_os_str()]);
        world.ok(&[OsStr::new("unmount"), sub.as_os_str()]);
        let none = world.run(&[OsStr::new("unmount"), other.as_os_str()]);
        assert_eq!(none.status.code(), Some(6), "{}", said(&none));
        let inside = world.run(&[OsStr::new("mount"), OsStr::new("tahoe:other"), world.at("a").as_os_str()]);
        assert!(inside.status.success(), "a mount in a mount: {}", said(&inside));
        world.ok(&[OsStr::new("unmount"), world.at("a").as_os_str()]);
    }
}
