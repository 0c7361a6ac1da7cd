//! pjdfstest, all of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::is_root;
use crate::mount::world::said;

/// Needs a file system whose limit of links the kernel knows; on FUSE it tells its own.
const NO_LIMIT_KNOWN: &str = "link::link_count_max";
/// Need mount(8) to make the mount read-only and back, which a FUSE mount does not do.
const REMOUNTS: [&str; 13] = [
    "chmod::erofs_named",
    "chown::erofs_named",
    "chown::lchown::erofs_named",
    "link::erofs_named",
    "mkdir::erofs_new_file",
    "mkfifo::erofs_new_file",
    "open::erofs_named",
    "open::erofs_new_file",
    "rename::erofs_named",
    "rmdir::erofs_named",
    "symlink::erofs_new_file",
    "truncate::erofs_named",
    "unlink::erofs_named",
];
const PASSED: usize = 384;

/// Everything that Linux has; two users that every Debian has; a second file system for EXDEV.
fn configuration(second: &Path) -> String {
    format!(
        r#"[features]
posix_fallocate = {{}}
rename_ctime = {{}}
utime_now = {{}}
utimensat = {{}}
secondary_fs = "{}"

[settings]
naptime = 0.01
allow_remount = false

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#,
        second.display()
    )
}

/// Where tests/run puts it, if it is not in the path.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push(cache.join("tahoefs-tests/cargo/bin"));
    let found = folders.into_iter().map(|folder| folder.join("pjdfstest")).find(|file| file.is_file());
    found.expect("pjdfstest is installed (tests/run does that)")
}

#[test]
fn pjdfstest_passes() {
    if !is_root("posix::suite::pjdfstest_passes") {
        return;
    }
    let world = super::mounted();
    let second = world.home().join("second");
    std::fs::create_dir(&second).unwrap();
    let config = world.home().join("pjdfstest.toml");
    std::fs::write(&config, configuration(&second)).unwrap();
    let mut command = Command::new(program());
    command.arg("-c").arg(&config).arg("-p").arg(world.mountpoint());
    command.env("RUST_BACKTRACE", "0").env("NO_COLOR", "1").stdin(Stdio::null());
    let output = command.output().expect("pjdfstest runs");
    let text = String::from_utf8_lossy(&output.stdout);

    let mut results: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines() {
        if let [name, result @ ("ok" | "skipped" | "FAILED")] = line.split_whitespace().collect::<Vec<_>>()[..] {
            results.entry(result).or_default().push(name);
        }
    }
    let mut of = |result| {
        let mut names = results.remove(result).unwrap_or_default();
        names.sort_unstable();
        names
    };
    let (passed, skipped, failed) = (of("ok"), of("skipped"), of("FAILED"));
    println!("pjdfstest: {} passed, {} skipped, {} failed", passed.len(), skipped.len(), failed.len());
    let mut unable = [&[NO_LIMIT_KNOWN][..], &REMOUNTS].concat();
    unable.sort_unstable();
    assert_eq!(failed, [""; 0], "{}", said(&output));
    assert_eq!(skipped, unable, "{}", said(&output));
    assert_eq!(passed.len(), PASSED, "{}", said(&output));
    world.unmount();
}
