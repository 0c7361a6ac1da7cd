//! Random operations on one file, checked by fsx at every read, and after a remount.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::world::{World, said};

/// Longer than five segments.
const CONFIG: &str = "
flen = 5600000
[opsize]
max = 300000
[weights]
close_open = 1
read = 8
write = 10
mapread = 6
mapwrite = 8
invalidate = 1
truncate = 4
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 6
sendfile = 2
posix_fadvise = 1
copy_file_range = 6
";
const OPERATIONS: &str = "1500";

fn run(seeds: std::ops::Range<u32>) {
    let world = World::mounted();
    let config = world.home().join("fsx.toml");
    fs::write(&config, CONFIG).unwrap();
    for seed in seeds {
        let (file, artifacts) = (world.at(format!("file {seed}")), world.home().join("artifacts"));
        fs::create_dir_all(&artifacts).unwrap();
        let mut fsx = Command::new("fsx");
        fsx.args(["-S", &seed.to_string(), "-N", OPERATIONS, "-q", "-f"]).arg(&config).arg("-P").arg(&artifacts);
        let output = fsx.arg(&file).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| panic!("fsx: {e} (tests/run installs it)"));
        assert!(output.status.success(), "seed {seed}: {}", said(&output));
        let content = fs::read(&file).unwrap();
        world.remount_cold(&[]);
        compare(&content, &file, seed);
    }
}

fn compare(content: &[u8], file: &Path, seed: u32) {
    let stored = fs::read(file).unwrap();
    let differs = content.iter().zip(&stored).position(|(a, b)| a != b);
    assert_eq!((stored.len(), differs), (content.len(), None), "seed {seed}: after a remount");
}

#[test]
fn random_operations_are_those_of_a_local_file_also_after_a_remount() {
    run(1..5);
}

#[test]
fn so_they_are_with_other_seeds() {
    run(5..9);
}
