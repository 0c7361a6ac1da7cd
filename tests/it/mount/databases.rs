//! Locks, SQLite, and fio with verification.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use super::world::{World, tool};

/// Runs a script of Python, which is given a path and says what is wrong.
fn python(script: &str, path: &Path) {
    tool("python3", &["-c".as_ref(), script.as_ref(), path.as_os_str()]);
}

/// Other processes meet locks of both kinds, and get them once they are let go or their holder ends.
const LOCKS: &str = "
import errno, fcntl, os, subprocess, sys
path = sys.argv[1]
child = '''
import fcntl, sys
file = open(sys.argv[1], 'r+')
try:
    getattr(fcntl, sys.argv[2])(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    sys.exit(11)
'''
def other(kind):
    return subprocess.run([sys.executable, '-c', child, path, kind]).returncode
for kind in ['flock', 'lockf']:
    file = open(path, 'r+')
    lock = getattr(fcntl, kind)
    lock(file, fcntl.LOCK_EX)
    assert other(kind) == 11, kind
    lock(file, fcntl.LOCK_UN)
    assert other(kind) == 0, kind
    lock(file, fcntl.LOCK_EX)
    waiting = subprocess.Popen([sys.executable, '-c', child.replace(' | fcntl.LOCK_NB', ''), path, kind])
    try:
        waiting.wait(0.3)
        raise AssertionError(kind)
    except subprocess.TimeoutExpired:
        pass
    file.close()
    assert waiting.wait(30) == 0, kind
    waiting = open(path, 'r+')
    lock(waiting, fcntl.LOCK_EX)
    blocked = subprocess.Popen([sys.executable, '-c', child.replace(' | fcntl.LOCK_NB', ''), path, kind])
    blocked.kill()
    assert blocked.wait(30) == -9, kind
    waiting.close()
";

#[test]
fn locks_hold_between_processes_and_who_waits_can_be_killed() {
    let world = World::mounted();
    fs::write(world.at("f"), "x").unwrap();
    python(LOCKS, &world.at("f"));
}

/// Writes in transactions of which some are rolled back, with VACUUM and a second process that reads all the while.
const DATABASE: &str = "
import random, sqlite3, subprocess, sys
path, mode = sys.argv[1].rsplit('/', 1)[0] + '/' + sys.argv[1].rsplit('/', 1)[1], sys.argv[1].rsplit('.', 1)[1]
reader = '''
import sqlite3, sys, time
last, rounds, end = -1, 0, time.monotonic() + 60
while last < 60 and time.monotonic() < end:
    db = sqlite3.connect(sys.argv[1], timeout=60)
    (done,) = db.execute('SELECT max(round) FROM rounds').fetchone()
    counted, noted = db.execute('SELECT (SELECT count(*) FROM rows WHERE round = ?), (SELECT n FROM rounds WHERE round = ?)', (done, done)).fetchone()
    assert counted == noted and done >= last, (counted, noted, done, last)
    last, rounds = done, rounds + 1
    db.close()
assert rounds > 2, rounds
'''
random.seed(5)
db = sqlite3.connect(path, timeout=60, isolation_level=None)
if mode == 'wal':
    assert db.execute('PRAGMA journal_mode = WAL').fetchone() == ('wal',)
if mode == 'mmap':
    assert db.execute('PRAGMA mmap_size = 100000000').fetchone() == (100000000,)
db.execute('CREATE TABLE rows (round INTEGER, x BLOB)')
db.execute('CREATE TABLE rounds (round INTEGER PRIMARY KEY, n INTEGER)')
db.execute('CREATE INDEX by_round ON rows (round)')
db.execute('INSERT INTO rounds VALUES (0, 0)')
second = subprocess.Popen([sys.executable, '-c', reader, path])
for round in range(1, 61):
    db.execute('BEGIN IMMEDIATE')
    n = random.randrange(1, 40)
    for _ in range(n):
        db.execute('INSERT INTO rows VALUES (?, ?)', (round, random.randbytes(random.randrange(3000))))
    db.execute('INSERT INTO rounds VALUES (?, ?)', (round, n))
    if round % 7 == 0:
        db.execute('ROLLBACK')
        db.execute('INSERT INTO rounds VALUES (?, 0)', (round,))
        db.execute('DELETE FROM rows WHERE round = ?', (round - 3,))
        db.execute('UPDATE rounds SET n = 0 WHERE round = ?', (round - 3,))
    else:
        db.execute('COMMIT')
    if round % 20 == 0:
        db.execute('VACUUM')
assert second.wait(90) == 0
assert db.execute('PRAGMA integrity_check').fetchone() == ('ok',)
db.close()
";
const SUMS: &str = "SELECT count(*), sum(length(x)), hex(max(x)) FROM rows; SELECT count(*), sum(n) FROM rounds; \
                    PRAGMA integrity_check;";

fn sqlite(mode: &str) {
    let world = World::mounted();
    let path = world.at(format!("data.{mode}"));
    python(DATABASE, &path);
    let sums = || tool("sqlite3", &[path.as_os_str(), SUMS.as_ref()]);
    let before = sums();
    assert!(before.ends_with("ok\n"), "{before}");
    world.remount_cold(&[]);
    assert_eq!(sums(), before);
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("delete");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite("wal");
}

#[test]
fn sqlite_through_a_memory_map() {
    sqlite("mmap");
}

#[test]
fn fio_verifies_what_it_has_written_also_after_a_remount() {
    let world = World::mounted();
    for engine in ["psync", "mmap"] {
        let file = world.at(format!("{engine} file"));
        let run = |more: &[&str]| {
            let mut args = vec![format!("--filename={}", file.display()), format!("--ioengine={engine}")];
            let always =
                ["--name=job", "--rw=randrw", "--bsrange=512-64k", "--size=6m", "--randseed=9", "--verify=crc32c"];
            args.extend(always.iter().chain(more).map(|arg| arg.to_string()));
            args.extend(["--verify_fatal=1", "--output-format=terse", "--verify_state_save=0"].map(str::to_owned));
            tool("fio", &args.iter().map(|arg| OsStr::new(arg.as_str())).collect::<Vec<_>>());
        };
        run(&["--do_verify=1", "--fallocate=posix"]);
        world.remount_cold(&[]);
        run(&["--verify_only"]);
    }
}
