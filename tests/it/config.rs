//! The node directory: `tahoe.cfg` as Python reads it, what init makes, export and import.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tahoefs::config::{self, Aliases, ConfigError, GridConfig, Ini, InitOptions, NodeDir, Secrets, Stores};
use tahoefs::util::Rng;

const PYTHON: &str = r#"
import configparser, json, sys
out = []
for text in json.load(sys.stdin):
    parser = configparser.ConfigParser(strict=False)
    try:
        parser.read_string(text[1:] if text.startswith('\ufeff') else text)
    except configparser.Error:
        out.append(None)
        continue
    rows = []
    for section in parser.sections():
        for option in parser.options(section):
            try:
                rows.append([section, option, parser.get(section, option)])
            except (configparser.Error, ValueError):
                rows.append([section, option, None])
    out.append(rows)
json.dump(out, sys.stdout)
"#;

/// What Python's `configparser` makes of each text; `None` without Python.
fn python_reads(texts: &[String]) -> Option<serde_json::Value> {
    let mut python =
        Command::new("python3").args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    python.stdin.take()?.write_all(&serde_json::to_vec(texts).unwrap()).unwrap();
    let out = python.wait_with_output().unwrap();
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

#[test]
fn tahoe_cfg_is_read_as_python_reads_it() {
    const PIECES: [&str; 34] = [
        "[client]\n",
        "[node]\n",
        "[DEFAULT]\n",
        "[a]b]\n",
        "[]\n",
        "[x\n",
        "  [node]\n",
        "a = 1\n",
        "A: 2\n",
        "a=3",
        "b = %(a)s\n",
        "b = %%x%%\n",
        "b = 5%\n",
        "b = %(c)s\n",
        "c = %(b)s\n",
        "  more\n",
        "\tmore = 1\n",
        "\n",
        "   \n",
        "# note\n",
        "  ; note\n",
        "d = x # kept\n",
        "d = y ; kept\n",
        "e =\n",
        "= 5\n",
        ": 6\n",
        "word\n",
        "f : g = h\n",
        "shares.needed = 3\r\n",
        "two words = v\n",
        "\u{a0}x = 1\n",
        "é = ü\n",
        "%(a)s = 4\n",
        "a = \n  %(d)s\n\n  z\n",
    ];
    let rng = Rng::seeded(7);
    let mut texts = vec!["\u{feff}[client]\nx = 1\n".to_owned(), String::new()];
    for _ in 0..2000 {
        let mut text = String::from(if rng.bytes::<1>()[0] < 230 { "[client]\n" } else { "" });
        for _ in 0..rng.bytes::<1>()[0] % 12 {
            text.push_str(PIECES[rng.bytes::<1>()[0] as usize % PIECES.len()]);
        }
        texts.push(text);
    }
    let Some(answers) = python_reads(&texts) else { return };
    let (mut values, mut refused) = (0, 0);
    for (text, answer) in texts.iter().zip(answers.as_array().unwrap()) {
        let Some(rows) = answer.as_array() else {
            assert!(Ini::parse(text).is_err(), "Python refuses {text:?}");
            refused += 1;
            continue;
        };
        let ini = Ini::parse(text).unwrap_or_else(|e| panic!("line {}: {e}: {text:?}", e.line));
        for row in rows {
            let (section, option) = (row[0].as_str().unwrap(), row[1].as_str().unwrap());
            let ours = ini.get(section, option).ok().map(|v| v.expect("Python knows the option"));
            assert_eq!(ours.as_deref(), row[2].as_str(), "[{section}] {option} in {text:?}");
            values += 1;
        }
    }
    assert!(values > 1000 && refused > 100, "{values} values, {refused} refused");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn initialised(path: PathBuf) -> NodeDir {
    let dir = NodeDir::at(path);
    config::init(&dir, &InitOptions::default(), &Rng::seeded(1)).unwrap();
    dir
}

#[test]
fn init_makes_a_private_node_directory_once() {
    let top = tempfile::tempdir().unwrap();
    let dir = initialised(top.path().join("deep/node"));
    for name in ["", "private", "tahoefs", "tahoefs/stores/store-1", "tahoefs/stores/store-5"] {
        assert_eq!(mode(&dir.path().join(name)), 0o700, "{name}");
    }
    for name in ["tahoe.cfg", "private/secret", "private/convergence", "tahoefs/config.toml"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
    let config = GridConfig::load(&dir).unwrap();
    assert_eq!((config.shares.needed, config.shares.happy, config.shares.total), (3, 5, 5));
    let stores = Stores::load(&dir).unwrap();
    assert_eq!(stores.entries.len(), 5);
    for entry in &stores.entries {
        entry.verify_at(&entry.directory(&dir)).unwrap();
    }
    let again = config::init(&dir, &InitOptions::default(), &Rng::seeded(2));
    assert_eq!(again, Err(ConfigError::Exists(dir.path().to_owned())));
    assert_eq!(fs::read_dir(top.path().join("deep")).unwrap().count(), 1, "nothing temporary is left");
}

#[test]
fn impossible_counts_make_nothing() {
    let top = tempfile::tempdir().unwrap();
    for (stores, needed, happy, total) in [(5, 6, 5, 5), (5, 3, 6, 6), (5, 0, 1, 1), (5, 3, 5, 300), (5, 3, 0, 5)] {
        let options = InitOptions { stores, shares: config::ShareCounts { needed, happy, total } };
        let made = config::init(&NodeDir::at(top.path().join("node")), &options, &Rng::seeded(1));
        assert!(matches!(made, Err(ConfigError::Invalid(_))), "{options:?}: {made:?}");
    }
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
}

#[test]
fn stores_are_added_moved_and_missed() {
    let top = tempfile::tempdir().unwrap();
    let dir = initialised(top.path().join("node"));
    let sixth = top.path().join("disk/sixth");
    fs::create_dir_all(&sixth).unwrap();
    fs::set_permissions(&sixth, fs::Permissions::from_mode(0o755)).unwrap();
    let entry = config::add_store(&dir, &sixth, &Rng::seeded(9)).unwrap();
    assert_eq!((entry.name.as_str(), entry.directory(&dir)), ("store-6", sixth.clone()));
    assert!(config::add_store(&dir, &sixth, &Rng::seeded(9)).is_err(), "it is in use already");

    assert_eq!(mode(&sixth), 0o700, "a directory that was there is closed to others");

    let first = Stores::load(&dir).unwrap().entries[0].clone();
    fs::write(first.directory(&dir).join("storage/shares/x"), "y").unwrap();
    let moved = config::move_store(&dir, "store-1", &top.path().join("disk/first")).unwrap();
    assert_eq!(moved.server_id, first.server_id);
    assert!(!first.directory(&dir).exists());
    assert_eq!(fs::read(top.path().join("disk/first/storage/shares/x")).unwrap(), b"y");
    assert!(config::move_store(&dir, "store-2", &sixth).is_err(), "something is there");
    assert!(config::move_store(&dir, "nonesuch", &top.path().join("disk/n")).is_err());
    let stores = Stores::load(&dir).unwrap();
    for entry in &stores.entries {
        entry.verify_at(&entry.directory(&dir)).unwrap();
    }
    fs::remove_dir_all(&sixth).unwrap();
    assert!(stores.entries[5].verify_at(&sixth).unwrap_err().contains("missing"));
    assert!(stores.entries[0].verify_at(&stores.entries[1].directory(&dir)).is_err(), "another store is there");
}

#[test]
fn exported_keys_bring_everything_back() {
    let top = tempfile::tempdir().unwrap();
    let dir = initialised(top.path().join("node"));
    Aliases::add(&dir, "work", "URI:DIR2:abc").unwrap();
    let file = top.path().join("keys");
    config::export_keys(&dir, &file, &Rng::seeded(3)).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert!(matches!(config::export_keys(&dir, &file, &Rng::seeded(3)), Err(ConfigError::Exists(_))));

    let secrets = Secrets::load_or_create(&dir, &Rng::seeded(4)).unwrap();
    let before = Stores::load(&dir).unwrap();
    let kept = top.path().join("kept");
    fs::rename(dir.own("stores"), &kept).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    fs::remove_dir_all(kept.join("store-4")).unwrap();

    let places: Vec<PathBuf> = ["store-2", "store-1", "store-3"].iter().map(|n| kept.join(n)).collect();
    let again = NodeDir::at(top.path().join("again"));
    let imported = config::import_keys(&again, &file, &places).unwrap();
    let names = |entries: &[config::StoreEntry]| entries.iter().map(|e| e.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&imported.adopted), ["store-1", "store-2", "store-3"]);
    assert_eq!(names(&imported.missing), ["store-4", "store-5"]);
    let after = Secrets::load_or_create(&again, &Rng::seeded(5)).unwrap();
    assert_eq!((after.lease, after.convergence), (secrets.lease, secrets.convergence));
    assert_eq!(Aliases::load(&again).unwrap().get("work"), Some("URI:DIR2:abc"));
    assert_eq!(GridConfig::load(&again).unwrap().shares, GridConfig::load(&NodeDir::at(again.path())).unwrap().shares);
    for (old, new) in before.entries.iter().zip(&Stores::load(&again).unwrap().entries) {
        assert_eq!(
            (&old.server_id, &old.tub_id, &old.permutation_seed),
            (&new.server_id, &new.tub_id, &new.permutation_seed)
        );
    }

    let third = NodeDir::at(top.path().join("third"));
    let other = top.path().join("other");
    tahoefs::config::Identity::create(&other, &Rng::seeded(8)).unwrap();
    assert!(config::import_keys(&third, &file, &[other]).is_err());
    fs::write(&file, "version = 1\n[secrets]\nlease = \"URI:DIR2:secret\"\n").unwrap();
    let error = config::import_keys(&third, &file, &[]).unwrap_err().to_string();
    assert!(!error.contains("secret\""), "{error}");
    assert!(!third.path().exists());
}

#[test]
fn exported_keys_carry_what_is_known_of_the_grid() {
    let top = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(top.path().join("node"));
    dir.make().unwrap();
    let key = "pub-v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";
    let given = format!(
        "[node]\nnickname = mine\n[client]\nshares.needed = 1\nshares.happy = 1\nshares.total = 2\n\
         introducer.furl = pb://x@tcp:h:1/with%%25\nhelper.furl = pb://x@tcp:h:2/y\nforce_foolscap = no\n\
         peers.preferred = v0-a,\n  v0-b\n[grid_managers]\nAlice = {key}\n"
    );
    fs::write(dir.tahoe_cfg(), given).unwrap();
    let blacklist = "aaaaaaaaaaaaaaaaaaaaaaaaaa refused\n";
    let files = [
        (dir.path().join("access.blacklist"), blacklist),
        (dir.private("introducers.yaml"), "introducers: {a: {furl: 'pb://x@tcp:h:3/z'}}\n"),
        (dir.private("introducer_a_cache.yaml"), "# nothing yet\n"),
    ];
    files.iter().for_each(|(path, text)| fs::write(path, text).unwrap());
    fs::write(dir.private("unrelated.yaml"), "not carried\n").unwrap();
    let file = top.path().join("keys");
    config::export_keys(&dir, &file, &Rng::seeded(3)).unwrap();

    let again = NodeDir::at(top.path().join("again"));
    config::import_keys(&again, &file, &[]).unwrap();
    let settings = |dir: &NodeDir| {
        let ini = Ini::parse(&fs::read_to_string(dir.tahoe_cfg()).unwrap()).unwrap();
        let of = |(section, option)| ini.get(section, option).unwrap().map(|value| value.replace('\n', " "));
        let client = ["introducer.furl", "helper.furl", "force_foolscap", "peers.preferred"];
        let all = client.map(|option| ("client", option)).into_iter().chain([("grid_managers", "alice")]);
        all.map(of).collect::<Vec<_>>()
    };
    assert!(settings(&dir).iter().all(Option::is_some));
    assert_eq!(settings(&again), settings(&dir));
    assert_eq!(GridConfig::load(&again).unwrap(), GridConfig::load(&dir).unwrap());
    for (path, text) in &files {
        let brought = again.path().join(path.strip_prefix(dir.path()).unwrap());
        assert_eq!((fs::read_to_string(&brought).unwrap().as_str(), mode(&brought)), (*text, 0o600));
    }
    assert!(!again.private("unrelated.yaml").exists());

    // An export that somebody has tampered with writes nowhere else, and no other settings.
    let text = fs::read_to_string(&file).unwrap();
    for (from, to) in [
        ("introducer_a_cache.yaml", "introducer_/../../../x_cache.yaml"),
        ("introducer_a_cache.yaml", "tahoe.cfg"),
        ("helper.furl", "web.port"),
        ("pb://x@tcp:h:2/y", "y\\n[storage]"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text, "{from}");
        fs::write(&file, changed).unwrap();
        let third = NodeDir::at(top.path().join("third"));
        assert!(config::import_keys(&third, &file, &[]).is_err(), "{to}");
        assert!(!third.path().exists());
    }
}
