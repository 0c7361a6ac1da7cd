//! Files behind mutable caps: written in place, whatever others write, under however many names.

use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::grid::{Fault, LONGEST};
use super::*;

const REWRITE: OpenMode = OpenMode { write: true, truncate: true };

/// A ground whose root has one mutable file under these names.
pub(super) fn with_file(names: &[&str], content: &[u8]) -> (Ground, Cap) {
    let ground = Ground::new();
    let cap = ground.grid.mutable_file("SSK", content);
    for name in names {
        ground.grid.link(&ground.root, name, &cap);
    }
    (ground, cap)
}

async fn find(fs: &Filesystem, name: &str) -> Ino {
    fs.lookup(ROOT, name.as_bytes()).await.unwrap().ino
}

async fn open(fs: &Filesystem, name: &str, mode: OpenMode) -> (Ino, Handle) {
    let ino = find(fs, name).await;
    (ino, fs.open(ino, mode).await.unwrap())
}

async fn put(fs: &Filesystem, (ino, handle): (Ino, Handle), offset: u64, data: &[u8]) {
    fs.write(ino, handle, offset, Bytes::copy_from_slice(data)).await.unwrap();
}

async fn append(fs: &Filesystem, (ino, handle): (Ino, Handle), data: &[u8]) {
    fs.append(ino, handle, 0, Bytes::copy_from_slice(data)).await.unwrap();
}

async fn size_of(fs: &Filesystem, ino: Ino) -> u64 {
    fs.getattr(ino).await.unwrap().size
}

fn resize(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

fn at(secs: i64) -> SetTime {
    SetTime::At(tahoefs::node::Timestamp { secs, nanos: 5 })
}

fn seen(ground: &Ground, name: &str) -> Option<String> {
    let child = ground.grid.child(&ground.root, name).unwrap();
    Some(child.metadata.map().get("tahoefs")?.get("seen")?.as_str()?.to_owned())
}

#[tokio::test]
async fn only_what_was_written_is_sent_and_the_cap_stays() {
    let (ground, cap) = with_file(&["f"], &[1; 5000]);
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    put(&fs, file, 100, &[2; 10]).await;
    put(&fs, file, 300, &[3; 10]).await;
    // Another client changes the file in between: its bytes stay, and so does what it appends.
    ground.grid.overwrite(&cap, |content| {
        content[200] = 9;
        content.extend([8; 50]);
    });
    fs.flush(file.0, file.1).await.unwrap();
    let content = ground.grid.content(&cap);
    assert_eq!((content.len(), content[99..111].to_vec()), (5050, [&[1][..], &[2; 10], &[1]].concat()));
    assert_eq!((content[200], content[300], content[5049]), (9, 3, 8));
    assert_eq!(ground.grid.written.load(Ordering::Relaxed), 20);
    assert_eq!(ground.grid.child(&ground.root, "f").unwrap().cap, cap);
    assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 0);
    // From then on it is read from the grid, and an old byte of ours is not sent again.
    assert_eq!(size_of(&fs, file.0).await, 5050);
    ground.grid.overwrite(&cap, |content| content[105] = 7);
    assert_eq!(fs.read(file.0, file.1, 104, 3).await.unwrap(), [2, 7, 2][..]);
    put(&fs, file, 0, &[4]).await;
    fs.fsync(file.0, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap)[105], 7);
    fs.release(file.1);
    assert_eq!(fs.writeback().status().changes, 0);
    let other = ground.mount().await;
    assert_eq!(read(&other, find(&other, "f").await).await, ground.grid.content(&cap));
}

#[tokio::test]
async fn files_are_cut_grown_and_appended_to() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let ino = find(&fs, "f").await;
    fs.setattr(ino, resize(10)).await.unwrap();
    fs.setattr(ino, resize(50)).await.unwrap();
    assert_eq!(read(&fs, ino).await, [&[1; 10][..], &[0; 40]].concat());
    let file = open(&fs, "f", WRITE).await;
    append(&fs, file, &[2; 5]).await;
    append(&fs, (ino, file.1), &[3; 5]).await;
    assert_eq!(size_of(&fs, ino).await, 60);
    // What another client puts where the file was cut is cut, too.
    ground.grid.overwrite(&cap, |content| content[20..].fill(9));
    fs.settle().await.unwrap();
    let expected = [&[1; 10][..], &[0; 40], &[2; 5], &[3; 5]].concat();
    assert_eq!(ground.grid.content(&cap), expected);
    fs.release(file.1);
    let file = open(&fs, "f", REWRITE).await;
    assert_eq!(size_of(&fs, ino).await, 0);
    put(&fs, file, 4, b"x").await;
    fs.flush(ino, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap), b"\0\0\0\0x");
    // Appended to where it ends now, which another client has moved.
    fs.release(file.1);
    ground.grid.overwrite(&cap, |content| content.extend(b"yz"));
    let file = open(&fs, "f", WRITE).await;
    append(&fs, file, b"!").await;
    fs.flush(ino, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap), b"\0\0\0\0xyz!");
    fs.release(file.1);
    assert_eq!(ground.grid.child(&ground.root, "f").unwrap().cap, cap);
}

#[tokio::test]
async fn more_than_it_can_hold_is_refused_at_once() {
    let (ground, cap) = with_file(&["f"], b"abc");
    let fs = ground.mount().await;
    let (ino, handle) = open(&fs, "f", WRITE).await;
    assert_eq!(fs.write(ino, handle, LONGEST, Bytes::from_static(b"x")).await, Err(FsError::TooLarge));
    assert_eq!(fs.setattr(ino, resize(LONGEST + 1)).await, Err(FsError::TooLarge));
    put(&fs, (ino, handle), LONGEST - 1, b"x").await;
    fs.flush(ino, handle).await.unwrap();
    assert_eq!(fs.append(ino, handle, 0, Bytes::from_static(b"x")).await, Err(FsError::TooLarge));
    let content = ground.grid.content(&cap);
    assert_eq!((content.len() as u64, &content[..4], content[LONGEST as usize - 1]), (LONGEST, &b"abc\0"[..], b'x'));
}

#[tokio::test]
async fn two_names_are_one_file() {
    let (ground, cap) = with_file(&["a", "b"], &[1; 100]);
    let fs = ground.mount().await;
    // One handle was there before anything was written.
    let before = open(&fs, "b", READ).await;
    let a = open(&fs, "a", WRITE).await;
    put(&fs, a, 90, &[2; 20]).await;
    assert_eq!(fs.read(before.0, before.1, 88, 100).await.unwrap().len(), 22);
    assert_eq!(read(&fs, find(&fs, "b").await).await.len(), 110);
    let b = open(&fs, "b", WRITE).await;
    put(&fs, b, 0, &[3; 5]).await;
    assert_eq!(fs.read(a.0, a.1, 0, 6).await.unwrap(), [3, 3, 3, 3, 3, 1][..]);
    assert_eq!(fs.getattr(a.0).await.unwrap().mtime, fs.getattr(b.0).await.unwrap().mtime);
    fs.flush(a.0, a.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap)[..5], [3; 5]);
    fs.release(a.1);
    fs.release(b.1);
    fs.settle().await.unwrap();
    assert_eq!(seen(&ground, "a"), seen(&ground, "b"));
    assert!(seen(&ground, "a").is_some());
    // Times that are set are those of both.
    fs.setattr(a.0, SetAttr { mtime: Some(at(77)), ..SetAttr::default() }).await.unwrap();
    fs.settle().await.unwrap();
    let other = ground.mount().await;
    assert_eq!(other.lookup(ROOT, b"b").await.unwrap().mtime.secs, 77);
}

#[tokio::test(start_paused = true)]
async fn content_outlives_its_names() {
    let (ground, cap) = with_file(&["f", "kept"], &[1; 100]);
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    put(&fs, file, 0, b"before").await;
    fs.rm(ROOT, b"f").await.unwrap();
    fs.rm(ROOT, b"kept").await.unwrap();
    let status = fs.writeback().status();
    assert_eq!((status.changes, status.files, status.bytes), (3, 1, 100));
    fs.settle().await.unwrap();
    assert_eq!((ground.published().await.len(), ground.grid.content(&cap)[..6].to_vec()), (0, b"before".to_vec()));
    // Written on without a name: closing it tells what became of that.
    put(&fs, file, 0, b"after!").await;
    ground.grid.fail(&[Fault::Refuse]);
    assert_eq!(fs.flush(file.0, file.1).await, Err(FsError::NoSpace));
    assert_eq!(fs.writeback().status().failures.last().unwrap().name, "f");
    fs.fsync(file.0, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap)[..6], *b"after!");
    // And the background stores it, once nobody writes to it.
    put(&fs, file, 0, b"later!").await;
    let writeback = Arc::clone(fs.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    tokio::time::sleep(Duration::from_millis(2600)).await;
    assert_eq!(ground.grid.content(&cap)[..6], *b"after!");
    fs.release(file.1);
    fs.forget(file.0, 1);
    // It was stored before, so it is left alone for longer.
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(ground.grid.content(&cap)[..6], *b"later!");
    assert_eq!(fs.writeback().status().changes, 0);
    running.abort();
}

#[tokio::test]
async fn content_is_stored_though_its_name_was_replaced() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    put(&fs, file, 0, b"before").await;
    fs.release(file.1);
    write(&fs, ROOT, "fresh", b"an atomic save").await;
    fs.mv(ROOT, b"fresh", ROOT, b"f", RenameMode::Replace).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.content(&cap)[..6], *b"before");
    let child = ground.grid.child(&ground.root, "f").unwrap();
    assert!(!child.cap.is_mutable());
    assert_eq!(seen(&ground, "f"), None);
}

#[tokio::test]
async fn a_read_only_cap_in_a_writeable_directory_refuses_writers() {
    let (ground, cap) = with_file(&["rw"], &[1; 100]);
    ground.grid.link(&ground.root, "ro", &cap.readonly());
    let fs = ground.mount().await;
    let ro = find(&fs, "ro").await;
    assert_eq!(fs.open(ro, WRITE).await, Err(FsError::Denied));
    assert_eq!(fs.setattr(ro, resize(0)).await, Err(FsError::Denied));
    let reader = fs.open(ro, READ).await.unwrap();
    // What is written through the other name shows here at once, and stays after it was stored.
    let rw = open(&fs, "rw", WRITE).await;
    put(&fs, rw, 0, b"new").await;
    assert_eq!(fs.read(ro, reader, 0, 4).await.unwrap(), b"new\x01"[..]);
    fs.flush(rw.0, rw.1).await.unwrap();
    assert_eq!(fs.read(ro, reader, 0, 4).await.unwrap(), b"new\x01"[..]);
    // The edge can be changed, and a rename gives nobody the authority.
    fs.setattr(ro, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    fs.mv(ROOT, b"ro", ROOT, b"ro2", RenameMode::Replace).await.unwrap();
    assert_eq!(fs.open(find(&fs, "ro2").await, WRITE).await, Err(FsError::Denied));
    fs.rm(ROOT, b"rw").await.unwrap();
    assert_eq!(fs.open(ro, WRITE).await, Err(FsError::Denied));
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.child(&ground.root, "ro2").unwrap().cap, cap.readonly());
    assert_eq!(fs.getattr(ro).await.unwrap().mode, 0o600);
}

#[tokio::test]
async fn what_could_not_be_stored_is_told_kept_and_tried_again() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    put(&fs, file, 10, b"ours").await;
    ground.grid.fail(&[Fault::Refuse]);
    assert_eq!(fs.flush(file.0, file.1).await, Err(FsError::NoSpace));
    let status = fs.writeback().status();
    assert_eq!((status.changes, status.files, status.failures.len()), (1, 1, 1));
    // The publish is applied, but its answer is lost; somebody writes before it is tried again.
    ground.grid.fail(&[Fault::ApplyThenFail]);
    assert_eq!(fs.fsync(file.0, file.1).await, Err(FsError::Busy));
    ground.grid.overwrite(&cap, |content| content[50] = 5);
    assert_eq!(fs.read(file.0, file.1, 10, 4).await.unwrap(), b"ours"[..]);
    fs.release(file.1);
    fs.settle().await.unwrap();
    let content = ground.grid.content(&cap);
    assert_eq!((&content[10..14], content[50], content.len()), (&b"ours"[..], 5, 100));
    assert_eq!(fs.writeback().status().changes, 0);
}

#[tokio::test]
async fn attributes_and_renames_leave_the_content_alone() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    let ino = find(&fs, "f").await;
    fs.setattr(ino, SetAttr { mode: Some(0o640), uid: Some(7), ..SetAttr::default() }).await.unwrap();
    fs.mv(ROOT, b"f", d, b"g", RenameMode::Replace).await.unwrap();
    fs.settle().await.unwrap();
    assert_eq!(ground.grid.written.load(Ordering::Relaxed), 0);
    let other = ground.mount().await;
    let d = find(&other, "d").await;
    let attr = other.lookup(d, b"g").await.unwrap();
    assert_eq!((attr.mode, attr.uid, attr.size), (0o640, 7, 100));
    let handle = other.open(attr.ino, WRITE).await.unwrap();
    put(&other, (attr.ino, handle), 0, b"still the same file").await;
    other.flush(attr.ino, handle).await.unwrap();
    assert!(ground.grid.content(&cap).starts_with(b"still the same file"));
}

#[tokio::test]
async fn times_belong_to_the_version_they_were_written_for() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    put(&fs, file, 0, b"x").await;
    fs.setattr(file.0, SetAttr { mtime: Some(at(1000)), ..SetAttr::default() }).await.unwrap();
    fs.flush(file.0, file.1).await.unwrap();
    fs.release(file.1);
    assert_eq!(fs.getattr(file.0).await.unwrap().mtime.secs, 1000);
    let mark = seen(&ground, "f").unwrap();
    let other = ground.mount().await;
    let ino = find(&other, "f").await;
    assert_eq!(other.getattr(ino).await.unwrap().mtime.secs, 1000);
    // Somebody who knows nothing of the edge's times writes: both see that, and each goes on showing when it did.
    ground.grid.overwrite(&cap, |content| content[0] = b'y');
    for (fs, ino) in [(&fs, file.0), (&other, ino)] {
        let first = fs.getattr(ino).await.unwrap();
        assert!(first.mtime.secs > 1_000_000 && first.ctime >= first.mtime);
        assert_eq!(fs.getattr(ino).await.unwrap().mtime, first.mtime);
        assert_eq!(fs.lookup(ROOT, b"f").await.unwrap().mtime, first.mtime);
    }
    // A change of the mode does not claim the version; one of the times does.
    other.setattr(ino, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    other.settle().await.unwrap();
    assert_eq!(seen(&ground, "f").unwrap(), mark);
    other.setattr(ino, SetAttr { mtime: Some(at(2000)), ..SetAttr::default() }).await.unwrap();
    other.settle().await.unwrap();
    assert_ne!(seen(&ground, "f").unwrap(), mark);
    let third = ground.mount().await;
    assert_eq!(third.lookup(ROOT, b"f").await.unwrap().mtime.secs, 2000);
}

#[tokio::test]
async fn an_edge_that_says_nothing_of_versions_counts_as_matching() {
    let (ground, cap) = with_file(&["f"], &[1; 100]);
    let fs = ground.mount().await;
    let ino = find(&fs, "f").await;
    let before = fs.getattr(ino).await.unwrap().mtime;
    ground.grid.overwrite(&cap, |content| content.clear());
    let after = fs.getattr(ino).await.unwrap();
    assert_eq!((after.mtime, after.size), (before, 0));
}

/// A change of one file, through one of two names or through a handle opened at the start, or by another client.
#[derive(Clone, Debug)]
enum Op {
    Write(u8, u16, u8, u8),
    Append(u8, u8, u8),
    Truncate(u8, u16),
    Theirs(u16, u8, u8),
    TheirsTruncate(u16),
    Rename(u8, u8),
    Unlink(u8),
    Fsync(u8),
    Settle,
    Remount,
}

/// 0 and 1 are names, 2 is the handle.
fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..3, 0u16..300, 1u8..60, 1u8..255).prop_map(|(w, o, n, b)| Op::Write(w, o, n, b)),
        2 => (0u8..3, 1u8..60, 1u8..255).prop_map(|(w, n, b)| Op::Append(w, n, b)),
        3 => (0u8..3, 0u16..300).prop_map(|(w, n)| Op::Truncate(w, n)),
        3 => (0u16..300, 1u8..60, 1u8..255).prop_map(|(o, n, b)| Op::Theirs(o, n, b)),
        1 => (0u16..300).prop_map(Op::TheirsTruncate),
        1 => (0u8..2, 0u8..2).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => (0u8..2).prop_map(Op::Unlink),
        2 => (0u8..3).prop_map(Op::Fsync),
        1 => Just(Op::Settle),
        1 => Just(Op::Remount),
    ]
}

/// What is done to the content, in order; applied to whatever it is when it is stored.
#[derive(Debug)]
enum Done {
    Written(usize, Vec<u8>),
    Cut(usize),
}

fn done(content: &mut Vec<u8>, done: &Done) {
    match done {
        Done::Written(offset, data) => {
            content.resize(content.len().max(offset + data.len()), 0);
            content[*offset..offset + data.len()].copy_from_slice(data);
        }
        Done::Cut(size) => content.resize(*size, 0),
    }
}

struct World {
    fs: Arc<Filesystem>,
    names: [bool; 2],
    handle: Option<(Ino, Handle)>,
}

impl World {
    const NAMES: [&'static str; 2] = ["a", "b"];

    async fn new(ground: &Ground, names: [bool; 2]) -> World {
        let fs = ground.mount().await;
        let mut handle = None;
        if let Some(i) = names.iter().position(|there| *there) {
            handle = Some(open(&fs, World::NAMES[i], WRITE).await);
        }
        World { fs, names, handle }
    }

    /// The inode behind a name or the handle, if it is there.
    async fn ino(&self, way: u8) -> Option<Ino> {
        match way {
            2 => self.handle.map(|(ino, _)| ino),
            _ => {
                let found = self.fs.lookup(ROOT, World::NAMES[usize::from(way)].as_bytes()).await;
                assert_eq!(found.is_ok(), self.names[usize::from(way)]);
                found.ok().map(|attr| attr.ino)
            }
        }
    }

    async fn write(&self, ino: Ino, way: u8, offset: u64, data: Vec<u8>) {
        let handle = match (way, self.handle) {
            (2, Some((_, handle))) => handle,
            _ => self.fs.open(ino, WRITE).await.unwrap(),
        };
        put(&self.fs, (ino, handle), offset, &data).await;
        if way < 2 {
            self.fs.release(handle);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_mutable_file_is_that_of_the_model(ops in prop::collection::vec(ops(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let start: Vec<u8> = (0..200).collect();
            let (ground, cap) = with_file(&World::NAMES, &start);
            let mut world = World::new(&ground, [true, true]).await;
            // What the grid holds, and what is to be stored into it.
            let (mut stored, mut pending): (Vec<u8>, Vec<Done>) = (start, Vec::new());
            for op in &ops {
                match op {
                    Op::Write(way, offset, length, byte) => {
                        let Some(ino) = world.ino(*way).await else { continue };
                        let data = vec![*byte; (*length).into()];
                        world.write(ino, *way, (*offset).into(), data.clone()).await;
                        pending.push(Done::Written((*offset).into(), data));
                    }
                    Op::Append(way, length, byte) => {
                        let Some(ino) = world.ino(*way).await else { continue };
                        let data = vec![*byte; (*length).into()];
                        let end = size_of(&world.fs, ino).await;
                        let handle = world.fs.open(ino, WRITE).await.unwrap();
                        append(&world.fs, (ino, handle), &data).await;
                        world.fs.release(handle);
                        pending.push(Done::Written(end as usize, data));
                    }
                    Op::Truncate(way, size) => {
                        let Some(ino) = world.ino(*way).await else { continue };
                        world.fs.setattr(ino, resize((*size).into())).await.unwrap();
                        pending.push(Done::Cut((*size).into()));
                    }
                    Op::Theirs(offset, length, byte) => {
                        let theirs = Done::Written((*offset).into(), vec![*byte; (*length).into()]);
                        ground.grid.overwrite(&cap, |content| done(content, &theirs));
                        done(&mut stored, &theirs);
                    }
                    Op::TheirsTruncate(size) => {
                        let theirs = Done::Cut((*size).into());
                        ground.grid.overwrite(&cap, |content| done(content, &theirs));
                        done(&mut stored, &theirs);
                    }
                    Op::Rename(from, to) => {
                        let (from, to) = (usize::from(*from), usize::from(*to));
                        let [a, b] = [from, to].map(|i| World::NAMES[i].as_bytes());
                        let renamed = world.fs.mv(ROOT, a, ROOT, b, RenameMode::Replace).await;
                        assert_eq!(renamed.is_ok(), world.names[from]);
                        if world.names[from] && from != to {
                            (world.names[from], world.names[to]) = (false, true);
                        }
                    }
                    Op::Unlink(name) => {
                        let name = usize::from(*name);
                        let removed = world.fs.rm(ROOT, World::NAMES[name].as_bytes()).await;
                        assert_eq!(removed.is_ok(), std::mem::take(&mut world.names[name]));
                    }
                    Op::Fsync(way) => {
                        let Some(ino) = world.ino(*way).await else { continue };
                        let handle = world.fs.open(ino, READ).await.unwrap();
                        world.fs.fsync(ino, handle).await.unwrap();
                        world.fs.release(handle);
                        pending.drain(..).for_each(|change| done(&mut stored, &change));
                    }
                    Op::Settle | Op::Remount => {
                        world.fs.settle().await.unwrap();
                        pending.drain(..).for_each(|change| done(&mut stored, &change));
                        assert_eq!(world.fs.writeback().status().changes, 0);
                        if matches!(op, Op::Remount) {
                            world = World::new(&ground, world.names).await;
                        }
                    }
                }
                assert_eq!(ground.grid.content(&cap), stored, "on the grid after {op:?}");
                if pending.is_empty() {
                    for way in 0..3 {
                        let Some(ino) = world.ino(way).await else { continue };
                        assert_eq!(size_of(&world.fs, ino).await, stored.len() as u64);
                        assert_eq!(read(&world.fs, ino).await, stored, "by way {way} after {op:?}");
                    }
                }
            }
            world.fs.settle().await.unwrap();
            pending.drain(..).for_each(|change| done(&mut stored, &change));
            assert_eq!(ground.grid.content(&cap), stored);
            for (name, there) in World::NAMES.iter().zip(world.names) {
                let child = ground.grid.child(&ground.root, name);
                assert_eq!(child.map(|child| child.cap), there.then(|| cap.clone()));
            }
            assert_eq!(ground.grid.uploads.load(Ordering::Relaxed), 0);
        });
    }
}

#[tokio::test]
async fn an_append_goes_to_where_the_file_ended_when_it_was_last_looked_at() {
    let (ground, cap) = with_file(&["f"], b"base");
    let fs = ground.mount().await;
    let file = open(&fs, "f", WRITE).await;
    append(&fs, file, b"ours").await;
    ground.grid.overwrite(&cap, |content| content.extend(b"theirs!"));
    // While there is something to be stored nothing is looked at.
    append(&fs, file, b"+").await;
    assert_eq!(size_of(&fs, file.0).await, 9);
    fs.flush(file.0, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap), b"baseours+s!");
    append(&fs, file, b"end").await;
    fs.flush(file.0, file.1).await.unwrap();
    assert_eq!(ground.grid.content(&cap), b"baseours+s!end");
}
