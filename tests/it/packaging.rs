//! Packages, man pages, completions, scripts: what a person installs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

fn output(command: &mut Command) -> Output {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("{program}: {e} (tests/run installs it)"))
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Man pages and completions, freshly made.
fn docs() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let made = output(Command::new(env!("CARGO_BIN_EXE_tahoefs")).arg("generate-docs").arg(dir.path()));
    assert!(made.status.success(), "{}", said(&made));
    dir
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    found.sort();
    found
}

#[test]
fn man_pages_render_without_warnings() {
    let docs = docs();
    let mut pages = files(&docs.path().join("man"));
    let names: Vec<&str> = pages.iter().map(|p| p.file_name().unwrap().to_str().unwrap()).collect();
    for wanted in ["tahoefs.1", "tahoefs-mount.1", "tahoefs-store-move.1", "tahoefs-semantics.7"] {
        assert!(names.contains(&wanted), "{wanted} is missing from {names:?}");
    }
    assert!(!names.iter().any(|n| n.contains("generate")), "{names:?}");
    pages.push(checkout().join("packaging/man/mount.tahoefs.8"));
    let linted = output(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&pages));
    assert!(linted.status.success(), "{}", said(&linted));
    let rendered = output(Command::new("groff").args(["-ww", "-man", "-Tutf8", "-z"]).args(&pages));
    assert!(rendered.status.success() && rendered.stderr.is_empty(), "{}", said(&rendered));
    let text = output(Command::new("mandoc").args(["-T", "utf8"]).arg(docs.path().join("man/tahoefs.1")));
    let text = String::from_utf8_lossy(&text.stdout).replace('\u{8}', "");
    assert!(text.contains("an unmount left work behind"), "{text}");
}

/// Every command that `--help` lists.
fn commands() -> Vec<String> {
    let help = output(Command::new(env!("CARGO_BIN_EXE_tahoefs")).arg("--help"));
    let help = String::from_utf8(help.stdout).unwrap();
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|l| l.strip_prefix("  ")).filter(|l| !l.starts_with(' '));
    names.filter_map(|l| l.split(' ').next()).filter(|n| *n != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_has_a_page() {
    let docs = docs();
    let commands = commands();
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        assert!(docs.path().join(format!("man/tahoefs-{command}.1")).exists(), "{command}");
    }
}

#[test]
fn completions_load_and_know_the_commands() {
    let docs = docs();
    let file = |name: &str| docs.path().join("completions").join(name);
    for completions in files(&docs.path().join("completions")) {
        assert!(!fs::read_to_string(completions).unwrap().contains("generate-docs"));
    }
    let script = "source \"$1\" && complete -p tahoefs && COMP_WORDS=(tahoefs unm) COMP_CWORD=1 && \
                  _tahoefs tahoefs unm tahoefs && echo \"${COMPREPLY[@]}\"";
    let bash = output(Command::new("bash").args(["--norc", "-c", script, "bash"]).arg(file("tahoefs.bash")));
    assert!(bash.status.success() && said(&bash).contains("\nunmount\n"), "{}", said(&bash));
    let zsh = "fpath=($1 $fpath); autoload -Uz compinit && compinit -u -D && print -r -- ${_comps[tahoefs]} && \
               autoload -Uz +X _tahoefs";
    let zsh = output(Command::new("zsh").args(["-f", "-c", zsh, "zsh"]).arg(docs.path().join("completions")));
    assert!(zsh.status.success() && said(&zsh).contains("_tahoefs"), "{}", said(&zsh));
    let fish = "source $argv[1]; complete -C 'tahoefs unm'";
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new("fish");
    command.args(["--no-config", "-c", fish]).arg(file("tahoefs.fish")).env("HOME", home.path());
    let fish = output(&mut command);
    assert!(fish.status.success() && said(&fish).contains("unmount"), "{}", said(&fish));
}

#[test]
fn scripts_are_clean() {
    let scripts = ["packaging/build", "packaging/install.sh", "tests/run", ".ci/run"];
    let mut command = Command::new("shellcheck");
    let checked = output(command.args(scripts).current_dir(checkout()));
    assert!(checked.status.success(), "{}", said(&checked));
    let inside = ["tests/it/packaging/root.sh", "tests/it/packaging/inside.sh"];
    let checked = output(Command::new("shellcheck").args(["-s", "sh"]).args(inside).current_dir(checkout()));
    assert!(checked.status.success(), "{}", said(&checked));
}

/// The Debian package that `tests/run` built.
fn deb() -> PathBuf {
    let dir = std::env::var_os("TAHOEFS_TEST_PACKAGES")
        .expect("TAHOEFS_TEST_PACKAGES names the directory of packages: tests/run builds them and sets it");
    let found = files(Path::new(&dir)).into_iter().find(|p| p.extension().is_some_and(|e| e == "deb"));
    found.expect("a .deb among the packages")
}

#[test]
fn a_person_installs_the_package_and_mounts_by_fstab() {
    let deb = deb();
    let top = tempfile::tempdir().unwrap();
    let scripts = checkout().join("tests/it/packaging");
    let mut words = vec!["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh"];
    if !nix::unistd::geteuid().is_root() {
        words.splice(0..0, ["sudo", "-n"]);
    }
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(scripts.join("root.sh")).arg(top.path()).arg(&deb).arg(scripts.join("inside.sh"));
    let done = output(&mut command);
    assert!(done.status.success() && said(&done).contains("\nall done\n"), "{}", said(&done));
}
