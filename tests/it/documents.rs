//! The commands in the documents, run as they stand there by a person with an empty home.
//!
//! A command is a line that is indented by four spaces. Where a document says `/mnt/`, a folder of the home stands for it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::mount::world::{World, said, write_tree};
use crate::tahoe::{Grid, GridSpec, fresh};

/// What is done around the commands of a section: what the person has, and what must be true afterwards.
struct Section {
    heading: &'static str,
    before: &'static str,
    after: String,
}

fn section(heading: &'static str, before: &'static str, after: &str) -> Section {
    Section { heading, before, after: after.to_owned() }
}

/// The sections of `document` with commands, in their order.
fn commands(document: &str) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).expect("the document");
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    let mut heading = "";
    for line in text.lines() {
        if let Some(title) = line.strip_prefix('#') {
            heading = title.trim_start_matches('#').trim();
        } else if let Some(command) = line.strip_prefix("    ") {
            match sections.last_mut() {
                Some((last, commands)) if last == heading => commands.push(command.to_owned()),
                _ => sections.push((heading.to_owned(), vec![command.to_owned()])),
            }
        }
    }
    sections
}

/// Runs all commands of `document` in the home of `world`, section by section.
fn follow(world: &World, document: &str, sections: &[Section]) {
    let found = commands(document);
    let headings: Vec<&str> = found.iter().map(|(heading, _)| heading.as_str()).collect();
    let expected: Vec<&str> = sections.iter().map(|section| section.heading).collect();
    assert_eq!(headings, expected, "{document}: the sections with commands");

    let bin = world.home().join("bin-of-the-test");
    fs::create_dir_all(&bin).unwrap();
    symlink(env!("CARGO_BIN_EXE_tahoefs"), bin.join("tahoefs")).unwrap();
    // What `cargo run` would build is the binary under test.
    let cargo = "#!/bin/sh\n[ \"$1 $2 $3\" = 'run --release --' ] || exit 9\nshift 3\nexec tahoefs \"$@\"\n";
    fs::write(bin.join("cargo"), cargo).unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();

    for ((heading, commands), section) in found.iter().zip(sections) {
        let mut script = String::from("set -euo pipefail\ncd\n");
        let said_so = commands.join("\n").replace(" /mnt/", " ~/mnt/");
        write!(script, "{}\nset -x\n{said_so}\n{{ set +x; }} 2>/dev/null\n{}\n", section.before, section.after)
            .unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).env_clear().env("HOME", world.home()).env("PATH", path).env("LC_ALL", "C.UTF-8");
        let output = bash.stdin(Stdio::null()).output().expect("bash");
        assert!(output.status.success(), "{document}, \"{heading}\": {}", said(&output));
    }
    fs::remove_dir_all(&bin).unwrap();
}

fn with_documents() -> World {
    let world = World::new();
    write_tree(&world.home().join("Documents"), 30);
    world
}

/// A running client's node directory, with `tahoe:`, at `~/client`.
fn with_client(world: &World) -> Grid {
    let grid = Grid::start(GridSpec { servers: fresh(5), needed: 3, happy: 5, total: 5 });
    grid.tahoe(&["create-alias", "tahoe"]);
    symlink(grid.client_dir(), world.home().join("client")).unwrap();
    grid
}

#[test]
fn the_readme() {
    let world = with_documents();
    let _grid = with_client(&world);
    let sections = [
        section("Two commands", "", "if findmnt ~/Tahoe; then false; fi"),
        section(
            "With your own Tahoe-LAFS grid",
            "mv ~/client ~/.tahoe",
            "echo here >~/Tahoe/f; tahoefs -d ~/.tahoe unmount ~/Tahoe; tahoefs -d ~/.tahoe get tahoe:f - | grep -qx here; mv ~/.tahoe ~/client",
        ),
        section("Save this elsewhere", "mkdir -p ~/mnt/usb-disk", "test -d ~/mnt/usb-disk/tahoefs-store-2"),
        section(
            "Getting it back",
            "mkdir -p ~/mnt/a ~/mnt/b ~/mnt/c
             mv ~/.tahoefs/tahoefs/stores/store-1 ~/mnt/a/
             mv ~/mnt/usb-disk/tahoefs-store-2 ~/mnt/b/store-2
             mv ~/.tahoefs/tahoefs/stores/store-3 ~/mnt/c/
             rm -r ~/.tahoefs",
            "diff -r --no-dereference ~/Documents ~/Tahoe/Documents",
        ),
        section(
            "Everyday commands",
            "tahoefs unmount ~/Tahoe; for n in 4 5; do tahoefs store remove store-$n; tahoefs store add ~/mnt/store-$n; done; tahoefs mount ~/Tahoe
             echo report >report.pdf; mkdir -p Photos; echo photo >Photos/one.jpg
             mkdir ~/Tahoe/Family; echo hello >~/Tahoe/Family/letter; tahoefs flush
             getfattr --only-values -n user.tahoe.cap ~/Tahoe/Family >shared.cap",
            "diff report.pdf copy.pdf; diff report.pdf ~/Tahoe/Documents/report.pdf; diff ~/Tahoe/Family/letter ~/Shared/letter
             for mount in Tahoe Shared; do tahoefs unmount ~/$mount; done",
        ),
    ];
    follow(&world, "README.md", &sections);
}

#[test]
fn backing_up() {
    let world = with_documents();
    let same = "diff -r --no-dereference ~/Documents";
    let sections = [
        section("Backing up with rsync", "", &format!("{same} ~/Tahoe/Documents")),
        section("Every night", "echo new >~/Documents/new; rm -r ~/Documents/d1", &format!("{same} ~/Tahoe/Documents")),
        section(
            "One folder a day",
            "mkdir -p ~/Tahoe/daily/2000-01-01; cp -a ~/Documents/. ~/Tahoe/daily/2000-01-01/; tahoefs flush ~/Tahoe",
            "test $(stat -c %h ~/Tahoe/daily/2000-01-01/new) = 2
             for day in ~/Tahoe/daily/*; do diff -r --no-dereference ~/Documents $day; done",
        ),
        section("Checking and restoring", "", &format!("{same} ~/restored; tahoefs unmount ~/Tahoe")),
    ];
    follow(&world, "docs/BACKUP.md", &sections);
}

#[test]
fn what_is_lost_comes_back() {
    let world = with_documents();
    let same = "diff -r --no-dereference ~/Documents ~/Tahoe/Documents";
    let sections = [
        section("When something is lost", "tahoefs mount ~/Tahoe; cp -a ~/Documents ~/Tahoe/", ""),
        section(
            "The machine, with an embedded grid",
            "tahoefs unmount ~/Tahoe
             n=1; for disk in a b c; do mkdir -p ~/mnt/$disk; mv ~/.tahoefs/tahoefs/stores/store-$n ~/mnt/$disk/; n=$((n + 1)); done
             mkdir -p ~/mnt/d ~/mnt/e ~/mnt/f; rm -r ~/.tahoefs",
            &format!("{same}; echo more >~/Tahoe/more; tahoefs flush; tahoefs unmount ~/Tahoe"),
        ),
        section(
            "The machine, with a grid of servers",
            "mv ~/client ~/.tahoe; tahoefs -d ~/.tahoe mount tahoe: ~/Tahoe; cp -a ~/Documents ~/Tahoe/; tahoefs -d ~/.tahoe unmount ~/Tahoe
             mv ~/keys.toml ~/keys-of-the-embedded.toml; mv ~/.tahoefs ~/.tahoefs-of-the-embedded
             tahoefs -d ~/.tahoe export-keys ~/keys.toml; mv ~/.tahoe ~/client",
            &format!(
                "{same}; tahoefs unmount ~/Tahoe; rm -r ~/.tahoefs; mv ~/.tahoefs-of-the-embedded ~/.tahoefs
                 tahoefs mount ~/Tahoe"
            ),
        ),
        section(
            "A store or a server",
            "",
            &format!(
                "tahoefs unmount ~/Tahoe; mv ~/mnt/a ~/mnt/b ~; tahoefs mount ~/Tahoe; {same}
                 tahoefs unmount ~/Tahoe; mv ~/a ~/b ~/mnt/; tahoefs mount ~/Tahoe"
            ),
        ),
        section("The cache", "", same),
        section(
            "The exported keys",
            "tahoefs flush; getfattr --only-values -n user.tahoe.cap ~/Tahoe/Documents >shared.cap",
            "diff -r --no-dereference ~/Documents ~/Shared; tahoefs unmount ~/Shared; tahoefs unmount ~/Tahoe",
        ),
    ];
    let _grid = with_client(&world);
    follow(&world, "docs/RECOVERY.md", &sections);
}

#[test]
fn beside_a_client() {
    let world = with_documents();
    let _grid = with_client(&world);
    let sections = [section(
        "Your node directory",
        "mv ~/client ~/.tahoe",
        "cp -a ~/Documents ~/Tahoe/; tahoefs -d ~/.tahoe unmount ~/Tahoe
         tahoefs -d ~/.tahoe cp -r tahoe:Documents fetched; diff -r --no-dereference ~/Documents fetched/Documents",
    )];
    follow(&world, "docs/TAHOE.md", &sections);
}
