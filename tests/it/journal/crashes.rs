//! A child process works on a journal, says what was answered, and dies; what it said must be there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use tahoefs::journal::*;

use super::{bytes, cx, edge, open};

const FOLDER: &str = "TAHOEFS_TEST_JOURNAL";
const FIRST: &str = "TAHOEFS_TEST_FIRST";
/// Steps of one child.
const STEPS: u64 = 400;

/// Names and their contents.
type Model = BTreeMap<String, Vec<u8>>;

enum Step {
    Create(String, Vec<u8>),
    Write(String, usize, Vec<u8>),
    Truncate(String, usize),
    Remove(String),
    Rename(String, String),
    Barrier,
}

/// The step with this number: the child takes it, the parent knows it.
fn step(number: u64) -> Step {
    let dice = bytes(number + 1000, 8);
    let name = |i: usize| format!("file {}", dice[i] % 5);
    let large = |i: usize| usize::from(dice[i]) * 700 + usize::from(dice[i + 1]);
    match dice[0] % 16 {
        0..4 => Step::Create(name(1), bytes(number, if dice[2].is_multiple_of(2) { large(3) } else { large(3) / 40 })),
        4..9 => {
            Step::Write(name(1), large(2), bytes(number, 1 + large(4) / if dice[6].is_multiple_of(2) { 1 } else { 50 }))
        }
        9..11 => Step::Truncate(name(1), large(2)),
        11 => Step::Truncate(name(1), 0),
        12 => Step::Remove(name(1)),
        13 => Step::Rename(name(1), name(2)),
        _ => Step::Barrier,
    }
}

/// What `model` is after a step. A step of a name that is not there does nothing.
fn after(mut model: Model, step: &Step) -> Model {
    match step {
        Step::Create(name, content) => drop(model.insert(name.clone(), content.clone())),
        Step::Write(name, at, data) => {
            if let Some(content) = model.get_mut(name) {
                content.resize(content.len().max(at + data.len()), 0);
                content[*at..at + data.len()].copy_from_slice(data);
            }
        }
        Step::Truncate(name, size) => {
            if let Some(content) = model.get_mut(name) {
                content.resize(*size, 0);
            }
        }
        Step::Remove(name) => drop(model.remove(name)),
        Step::Rename(from, to) => {
            if let Some(content) = model.remove(from) {
                model.insert(to.clone(), content);
            }
        }
        Step::Barrier => {}
    }
    model
}

async fn take(journal: &Journal, files: &mut BTreeMap<String, Staged>, number: u64) {
    let target = |id| edge(WantedTarget::File(id), number);
    let mut batch = Batch::new();
    match step(number) {
        Step::Create(name, content) => {
            let file = journal.create_file(None).unwrap();
            file.write(0, Bytes::from(content)).await.unwrap();
            batch.put_edge(1, &name, target(file.id().unwrap()));
            if let Some(old) = files.insert(name, file) {
                batch.remove_file(old.id().unwrap());
            }
            journal.commit(batch).await.unwrap();
        }
        Step::Write(name, at, data) => {
            if let Some(file) = files.get(&name) {
                file.write(at as u64, Bytes::from(data)).await.unwrap();
            }
        }
        Step::Truncate(name, size) => {
            if let Some(file) = files.get(&name) {
                file.truncate(size as u64).await.unwrap();
            }
        }
        Step::Remove(name) => {
            if let Some(file) = files.remove(&name) {
                batch.remove_edge(1, &name);
                batch.remove_file(file.id().unwrap());
                journal.commit(batch).await.unwrap();
            }
        }
        Step::Rename(from, to) => {
            if let Some(file) = files.remove(&from) {
                batch.remove_edge(1, &from);
                batch.put_edge(1, &to, target(file.id().unwrap()));
                if let Some(old) = files.insert(to, file) {
                    batch.remove_file(old.id().unwrap());
                }
                journal.commit(batch).await.unwrap();
            }
        }
        Step::Barrier => journal.barrier().await.unwrap(),
    }
    if number.is_multiple_of(37) {
        journal.maintain().await.unwrap();
    }
}

fn reopen(folder: &Path) -> (Journal, BTreeMap<String, Staged>) {
    let (journal, replay) = open(folder);
    assert_eq!(replay.damaged, 0);
    let mut files = BTreeMap::new();
    for (_, name, record) in replay.edges {
        let Some(WantedTarget::File(id)) = record.wanted.map(|w| w.target) else { panic!("an edge to no file") };
        let record = replay.files.iter().find(|file| file.id == id).expect("the file of an edge");
        files.insert(name, journal.reopen_file(record, None).unwrap());
    }
    (journal, files)
}

#[test]
#[ignore = "what the other tests start and let die"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let first: u64 = std::env::var(FIRST).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (journal, mut files) = reopen(Path::new(&folder));
        for number in first..first + STEPS {
            take(&journal, &mut files, number).await;
            eprintln!("answered {number}");
        }
    });
}

fn start(folder: &Path, first: u64, crash_at: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "journal::crashes::child", "--nocapture"]);
    command.env(FOLDER, folder).env(FIRST, first.to_string()).env_remove("TAHOEFS_CRASH_AT");
    command.envs(crash_at.map(|at| ("TAHOEFS_CRASH_AT", at)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The steps that the child says were answered, up to its end, or up to `enough`, at which it is killed.
fn watch(child: &mut Child, enough: u64) -> u64 {
    let mut answered = 0;
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        assert!(!line.contains("panicked"), "the child panicked: {line}");
        answered += u64::from(line.starts_with("answered "));
        if answered == enough {
            child.kill().unwrap();
        }
    }
    answered
}

/// Checks that what was answered is there, and that the step after it is there, or not, or, if it is a write, in parts.
fn verify(folder: &Path, before: Model, first: u64, answered: u64) -> Model {
    let model = (first..first + answered).fold(before, |model, number| after(model, &step(number)));
    let next = after(model.clone(), &step(first + answered));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found: Model = runtime.block_on(async {
        let (_journal, files) = reopen(folder);
        let mut found = Model::new();
        for (name, file) in files {
            let content = file.read(&cx(), 0..u64::MAX).await.unwrap();
            assert_eq!(content.len() as u64, file.size());
            found.insert(name, content.to_vec());
        }
        found
    });
    let names = |model: &Model| model.keys().cloned().collect::<Vec<_>>();
    assert!(names(&found) == names(&model) || names(&found) == names(&next), "{:?}", names(&found));
    for (name, content) in &found {
        let (old, new) = (model.get(name), next.get(name));
        let mixed = || {
            let (Some(old), Some(new)) = (old, new) else { return false };
            matches!(step(first + answered), Step::Write(..))
                && (content.len() == old.len() || content.len() == new.len())
                && content.iter().enumerate().all(|(i, b)| old.get(i) == Some(b) || new.get(i) == Some(b))
        };
        assert!(Some(content) == old || Some(content) == new || mixed(), "{name} after step {}", first + answered);
    }
    found
}

#[test]
fn whatever_was_answered_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let (mut model, mut first) = (Model::new(), 0);
    for round in 0..8u64 {
        let mut child = start(folder.path(), first, None);
        let answered = watch(&mut child, 5 + round * 23 % 60);
        child.wait().unwrap();
        model = verify(folder.path(), model, first, answered);
        first += answered + 1;
    }
    assert!(first > 100, "only {first} steps were taken");
}

#[test]
fn each_crash_point_leaves_what_was_answered() {
    for point in CRASH_POINTS {
        for visit in [1, 4] {
            let folder = tempfile::tempdir().unwrap();
            let mut child = start(folder.path(), 7, Some(&format!("{point}:{visit}")));
            let answered = watch(&mut child, u64::MAX);
            let status = child.wait().unwrap();
            assert!(!status.success() && answered < STEPS, "{point} was not visited {visit} times");
            verify(folder.path(), Model::new(), 7, answered);
        }
    }
}
