use std::path::Path;

use super::*;

const KEY: &str = "v0-e4jzyshezxyfmtotptn6mtuftcvetpusx2wjm2bgzmk6lt5dj4oq";
const OTHER: &str = "v0-33al6dkxwnx724xrvn6nx2rh5kaffpe6s44n7fp2l7z6jv6rkbeq";
const FURL: &str = "pb://7p7mwznpadz7y2f3vfrtsl5xayhvt6lh@tcp:127.0.0.1:1/fswissnum";
const HASH: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// 52 ASCII characters in base32, as the reference announces them.
const SEED: &str = "ovyhe33tnbygq2tfmjsgq2lonmzgu4djom2dgnbtgq2tgmzugq2tgmzugq2tgmzugq2tgmzugq2tgmzugq2q";

fn nurl(port: u16) -> String {
    format!("pb://{HASH}@127.0.0.1:{port}/nswissnum#v=1")
}

fn config(text: &str) -> GridConfig {
    GridConfig::parse(Path::new("tahoe.cfg"), text).unwrap()
}

fn load(files: &[(&str, &str)]) -> Announcements {
    let top = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(top.path());
    dir.make().unwrap();
    for (name, text) in files {
        fs::write(dir.private(name), text).unwrap();
    }
    let all = Announcements::load(&dir, &config("[client]\n")).unwrap();
    let shown = format!("{all:?}");
    assert!(!shown.contains("swissnum"), "a secret is shown: {shown}");
    all
}

fn entry(key: &str, rest: &str) -> String {
    let nurl = nurl(1);
    format!(
        "- ann:\n    anonymous-storage-FURL: {FURL}\n    anonymous-storage-NURLs:\n    - {nurl}\n    \
         service-name: storage\n    version: 0\n{rest}  key_s: {key}\n"
    )
}

fn one(rest: &str) -> Announcement {
    let mut all = load(&[("introducer_default_cache.yaml", &entry(KEY, rest))]);
    assert_eq!(all.warnings, Vec::<String>::new());
    assert_eq!(all.servers.len(), 1);
    all.servers.remove(0)
}

#[test]
fn an_announcement_is_read() {
    let rest = format!(
        "    nickname: \"caf\\xE9\"\n    seqnum: 3\n    nonce: n\n    app-versions: []\n    permutation-seed-base32: {SEED}\n    \
         grid-manager-certificates:\n    - {{certificate: '{{}}', signature: aa}}\n    - 3\n    \
         my-version: tahoe-lafs/1.20.0\n    oldest-supported: 1.0.0\n    unknown: {{deep: [1, 2]}}\n"
    );
    let server = one(&rest);
    assert_eq!((server.server_id.as_str(), server.nickname.as_str()), (KEY, "café"));
    assert_eq!(server.tub_id, furl_tub_id(FURL).unwrap());
    assert_eq!((server.nurls.len(), server.seqnum, server.unusable), (1, Some(3), None));
    assert_eq!(server.certificates, [Certificate { text: "{}".into(), signature: "aa".into() }]);
    assert_eq!(server.permutation_seed.len(), 52);
    assert_eq!(server.permutation_seed, base32::decode(SEED).unwrap());
}

#[test]
fn the_seed_follows_the_announcement_the_key_or_the_name() {
    assert_eq!(one("").permutation_seed, public_key(KEY).unwrap());
    assert_eq!(one("    permutation-seed-base32: mfrgg\n").permutation_seed, b"abc");
    let named = format!("storage:\n  my server:\n    ann:\n      anonymous-storage-FURL: {FURL}\n");
    let all = load(&[("servers.yaml", &named)]);
    assert_eq!(all.servers[0].permutation_seed, Sha256::digest(b"my server").to_vec());
}

#[test]
fn nicknames_of_any_type_do() {
    for (written, read) in
        [("12", "12"), ("true", "true"), ("[1]", ""), ("{a: 1}", ""), ("null", ""), ("1.5", "1.5"), ("\"a\\tb\"", "ab")]
    {
        assert_eq!(one(&format!("    nickname: {written}\n")).nickname, read, "{written}");
    }
    assert_eq!(one(&format!("    nickname: {}\n", "x".repeat(9999))).nickname.len(), NICKNAME_LIMIT);
}

#[test]
fn nurls_come_as_lists_sets_and_bytes() {
    let with = |nurls: &str| {
        let text = format!(
            "storage:\n  s:\n    ann:\n      anonymous-storage-FURL: {FURL}\n      anonymous-storage-NURLs: {nurls}\n"
        );
        let all = load(&[("servers.yaml", &text)]);
        assert_eq!(all.warnings, Vec::<String>::new());
        let server = all.servers.into_iter().next().unwrap();
        (server.nurls.iter().map(|n| n.port).collect::<Vec<_>>(), server.unusable)
    };
    let (a, b) = (nurl(1), nurl(2));
    let tor = a.replace("pb:", "pb+tor:");
    let bytes = BASE64.encode(a.as_bytes());
    assert_eq!(with(&format!("['{a}', '{b}']")), (vec![1, 2], None));
    assert_eq!(with(&format!("!!set {{? '{a}', ? '{b}'}}")), (vec![1, 2], None));
    assert_eq!(with(&format!("[!!binary '{bytes}']")), (vec![1], None));
    assert_eq!(with(&format!("[3, '{tor}', 'pb://x', '{b}']")), (vec![2], None));
    assert_eq!(with(&format!("['{tor}']")), (vec![], Some(Unusable::TorOnly)));
    assert_eq!(with("['pb://x@h:1/y#v=2']"), (vec![], Some(Unusable::BadNurls)));
    assert_eq!(with("[]"), (vec![], Some(Unusable::FurlOnly)));
    assert_eq!(with("pb://x"), (vec![], Some(Unusable::FurlOnly)));
}

#[test]
fn what_cannot_be_talked_to_says_why() {
    let nurl = nurl(1);
    let text = format!(
        "storage:\n  plugin:\n    ann: {{storage-options: [{{name: p, storage-server-FURL: '{FURL}'}}]}}\n  \
         nothing:\n    ann: {{}}\n  \
         no tub:\n    ann: {{anonymous-storage-NURLs: ['{nurl}']}}\n  \
         tor:\n    ann: {{anonymous-storage-FURL: '{FURL}', anonymous-storage-NURLs: ['{nurl}']}}\n    connections: {{tcp: tor}}\n  \
         odd:\n    ann: {{anonymous-storage-FURL: '{FURL}', anonymous-storage-NURLs: ['{nurl}']}}\n    connections: tor\n  \
         fine:\n    ann: {{anonymous-storage-FURL: '{FURL}', anonymous-storage-NURLs: ['{nurl}']}}\n    connections: {{tcp: tcp, tor: tor}}\n"
    );
    let all = load(&[("servers.yaml", &text)]);
    let of = |id: &str| all.servers.iter().find(|s| s.server_id == id).unwrap().unusable;
    assert_eq!(of("plugin"), Some(Unusable::Plugin));
    assert_eq!(of("nothing"), Some(Unusable::NoAddress));
    assert_eq!(of("no tub"), Some(Unusable::NoTubId));
    assert_eq!(of("tor"), Some(Unusable::Hidden));
    assert_eq!(of("odd"), Some(Unusable::Hidden));
    assert_eq!(of("fine"), None);
    assert_eq!((all.servers.len(), all.warnings.len()), (6, 0), "{:?}", all.warnings);

    let top = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(top.path());
    dir.make().unwrap();
    fs::write(dir.private("servers.yaml"), &text).unwrap();
    let forced = Announcements::load(&dir, &config("[client]\nforce_foolscap = True\n")).unwrap();
    let of = |id: &str| forced.servers.iter().find(|s| s.server_id == id).unwrap().unusable;
    assert_eq!((of("fine"), of("tor")), (Some(Unusable::Forced), Some(Unusable::Hidden)));
}

#[test]
fn the_higher_seqnum_wins_and_static_servers_override() {
    let low = entry(KEY, "    nickname: low\n    seqnum: 9\n");
    let high = entry(KEY, "    nickname: high\n    seqnum: 10\n");
    let none = entry(KEY, "    nickname: none\n    seqnum: '99'\n");
    for files in [[&low, &high, &none], [&high, &low, &none], [&none, &low, &high]] {
        let caches = [
            ("introducer_a_cache.yaml", files[0].as_str()),
            ("introducer_b_cache.yaml", files[1]),
            ("introducer_c_cache.yaml", files[2]),
        ];
        let all = load(&caches);
        assert_eq!(all.servers.iter().map(|s| s.nickname.as_str()).collect::<Vec<_>>(), ["high"]);
        let fixed = format!("storage:\n  {KEY}:\n    ann: {{nickname: static, anonymous-storage-FURL: '{FURL}'}}\n");
        let mut with_static = caches.to_vec();
        with_static.push(("servers.yaml", &fixed));
        assert_eq!(load(&with_static).servers[0].nickname, "static");
    }
}

#[test]
fn what_is_broken_is_left_out_and_named() {
    let good = entry(OTHER, "");
    let broken = [
        "- 3\n".to_owned(),
        "- ann: 3\n  key_s: v0-a\n".to_owned(),
        "- ann: {}\n".to_owned(),
        entry("v0-short", ""),
        entry(KEY, "    permutation-seed-base32: '0'\n"),
        entry(KEY, "    permutation-seed-base32: [1]\n"),
    ];
    for entry in &broken {
        let all = load(&[("introducer_default_cache.yaml", &format!("{entry}{good}"))]);
        assert_eq!((all.servers.len(), all.warnings.len()), (1, 1), "{entry}: {:?}", all.warnings);
        assert!(all.warnings[0].contains("introducer_default_cache.yaml"), "{:?}", all.warnings);
    }
    // Entries that are no YAML, or a bomb, do not hide the others.
    for entry in ["- [\n", "- ann: {a: *b}\n", &format!("- {}\n", "[".repeat(5000)), "- \"\n"] {
        for text in [format!("{entry}{good}"), format!("{good}{entry}")] {
            let all = load(&[("introducer_default_cache.yaml", &text)]);
            assert_eq!(all.servers.len(), 1, "{entry:?}: {:?}", all.warnings);
            assert!(!all.warnings.is_empty());
        }
    }
    // Other services are nobody's mistake.
    let other = good.replace("service-name: storage", "service-name: stub_client");
    assert_eq!(load(&[("introducer_default_cache.yaml", &other)]), Announcements::default());
    for text in ["", "storage:\n", "storage: {}\n", "# nothing\n"] {
        assert_eq!(load(&[("servers.yaml", text)]), Announcements::default(), "{text:?}");
    }
}

#[test]
fn a_servers_yaml_that_is_not_understood_is_refused_with_its_line() {
    let top = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(top.path());
    dir.make().unwrap();
    fs::write(dir.private("introducer_default_cache.yaml"), entry(KEY, "")).unwrap();
    let path = dir.private("servers.yaml");
    let refusal = || Announcements::load(&dir, &config("[client]\n")).unwrap_err();
    let hidden = format!("storage:\n  {OTHER}:\n    ann: {{}}\n  {KEY}:\n    connections: {{tcp: tor}}\n");
    let long = format!("storage:\n\n  {}:\n    ann: {{}}\n", "x".repeat(900));
    for (text, wanted) in [
        ("storage: 3\n", Some(1)),
        ("- storage\n", Some(1)),
        ("\nstorage:\n  x: 3\n", Some(3)),
        ("storage:\n  ? [a]\n  : {ann: {}}\n", None),
        (hidden.as_str(), Some(4)),
        (long.as_str(), Some(3)),
        ("storage:\n  \"a\\nb\":\n    ann: {}\n", None),
    ] {
        fs::write(&path, text).unwrap();
        let error = refusal();
        let ConfigError::Malformed { path: named, line, .. } = &error else { panic!("{error}") };
        assert_eq!((named, *line), (&path, wanted), "{text:?}: {error}");
        let said = error.to_string();
        assert!(said.contains("hide this computer's address") && said.len() < 1000 && !said.contains('\n'), "{said}");
    }
    fs::write(&path, "storage:\n  x: {\n").unwrap();
    assert!(matches!(refusal(), ConfigError::Malformed { line: Some(_), .. }));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("nowhere", &path).unwrap();
    assert!(refusal().to_string().contains("servers.yaml"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(refusal(), ConfigError::Io { .. }));
}

#[test]
fn changes_of_files_are_seen() {
    let top = tempfile::tempdir().unwrap();
    let dir = NodeDir::at(top.path());
    dir.make().unwrap();
    let empty = FilesSeen::now(&dir);
    fs::write(dir.private("introducer_x_cache.yaml"), "[]").unwrap();
    let one = FilesSeen::now(&dir);
    assert_ne!(empty, one);
    assert_eq!(one, FilesSeen::now(&dir));
    fs::write(dir.private("introducer_x_cache.yaml"), "[  ]").unwrap();
    assert_ne!(one, FilesSeen::now(&dir));
    fs::remove_file(dir.private("introducer_x_cache.yaml")).unwrap();
    assert_eq!(empty, FilesSeen::now(&dir));
}
