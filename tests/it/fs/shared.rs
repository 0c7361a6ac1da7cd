//! Several machines in one tree: directories that one removes while another puts something into them.

use std::sync::atomic::Ordering;

use super::grid::Fault;
use super::*;

const FILE: &[u8] = &[7; 100];

/// What a mount that comes later reads at a path.
pub async fn content(ground: &Ground, path: &[&str]) -> Option<Vec<u8>> {
    let other = ground.mount().await;
    Some(read(&other, find(&other, path).await?).await)
}

pub async fn find(fs: &Filesystem, path: &[&str]) -> Option<Ino> {
    let mut at = ROOT;
    for name in path {
        at = fs.lookup(at, name.as_bytes()).await.ok()?.ino;
    }
    Some(at)
}

/// A tree of empty directories that is on the grid: each path is below the one before.
async fn tree(ground: &Ground, names: &[&str]) {
    let fs = ground.mount().await;
    let mut at = ROOT;
    for name in names {
        at = fs.mkdir(at, name.as_bytes(), 0o755, ME).await.unwrap().ino;
    }
    fs.settle().await.unwrap();
}

/// The cap of a directory in the root.
fn cap_of(ground: &Ground, name: &str) -> Cap {
    ground.grid.child(&ground.root, name).unwrap().cap
}

#[tokio::test]
async fn a_directory_that_is_filled_before_it_goes_stays() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.rm_dir(ROOT, b"d").await.unwrap();
    let d = find(&theirs, &["d"]).await.unwrap();
    write(&theirs, d, "f", FILE).await;
    theirs.settle().await.unwrap();
    ours.settle().await.unwrap();
    assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE);
    let d = find(&ours, &["d"]).await.expect("it shows again");
    assert!(ours.lookup(d, b"f").await.is_ok());
    let status = ours.writeback().status();
    assert_eq!(status.changes, 0);
    let told: Vec<_> = status.conflicts.iter().map(|c| (c.path.as_str(), c.kept_as.as_deref())).collect();
    assert_eq!(told, [("d", None)]);
    // It can still be removed.
    ours.rm(d, b"f").await.unwrap();
    ours.rm_dir(ROOT, b"d").await.unwrap();
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await.len(), 0);
}

#[tokio::test]
async fn a_directory_that_is_filled_after_it_went_comes_back() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let d = find(&theirs, &["d"]).await.unwrap();
    let mode = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    theirs.setattr(d, mode).await.unwrap();
    theirs.settle().await.unwrap();
    write(&theirs, d, "f", FILE).await;
    ours.rm_dir(ROOT, b"d").await.unwrap();
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await.len(), 0);
    theirs.settle().await.unwrap();
    assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE);
    let other = ground.mount().await;
    assert_eq!(other.lookup(ROOT, b"d").await.unwrap().mode, 0o700);
}

#[tokio::test(start_paused = true)]
async fn directories_that_two_move_into_each_other_can_be_reached() {
    // The second sets out so many milliseconds after the first.
    let times = (0..=600).step_by(100);
    for (later, into) in times.flat_map(|later| [(later, &["below"][..]), (later, &[])]) {
        let ground = Ground::new();
        let fs = ground.mount().await;
        for name in ["a", "b"] {
            let dir = fs.mkdir(ROOT, name.as_bytes(), 0o755, ME).await.unwrap().ino;
            write(&fs, dir, "f", name.as_bytes()).await;
            fs.mkdir(dir, b"below", 0o755, ME).await.unwrap();
        }
        fs.settle().await.unwrap();
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        let (b, a) = ([&["b"], into].concat(), [&["a"], into].concat());
        let (b, a) = (find(&ours, &b).await.unwrap(), find(&theirs, &a).await.unwrap());
        ours.mv(ROOT, b"a", b, b"a", RenameMode::Replace).await.unwrap();
        theirs.mv(ROOT, b"b", a, b"b", RenameMode::Replace).await.unwrap();
        ground.grid.publishes_take(Duration::from_millis(200));
        let others = async {
            tokio::time::sleep(Duration::from_millis(later)).await;
            theirs.settle().await
        };
        let (one, other) = tokio::join!(ours.settle(), others);
        one.unwrap();
        other.unwrap();
        let found = files(&*ground.mount().await, ROOT, "").await;
        for name in ["a", "b"] {
            let is_there = found.iter().any(|(_, content)| content == name.as_bytes());
            assert!(is_there, "{name} is lost, {later} ms: {found:?}");
        }
        if !into.is_empty() {
            assert!(found.len() == 2, "{later} ms: {found:?}");
        }
        tokio::time::advance(Duration::from_secs(11)).await;
        for fs in [&ours, &theirs] {
            assert_eq!(files(fs, ROOT, "").await, found, "{later} ms");
        }
    }
}

#[tokio::test]
async fn closing_a_file_waits_until_its_directory_is_named_again() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let d = find(&theirs, &["d"]).await.unwrap();
    let (attr, handle) = theirs.create(d, b"f", 0o644, ME, WRITE).await.unwrap();
    theirs.write(attr.ino, handle, 0, Bytes::from_static(FILE)).await.unwrap();
    ours.rm_dir(ROOT, b"d").await.unwrap();
    ours.settle().await.unwrap();
    theirs.flush(attr.ino, handle).await.unwrap();
    assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_filled_while_it_goes_comes_back() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let d = find(&theirs, &["d"]).await.unwrap();
    write(&theirs, d, "f", FILE).await;
    ours.rm_dir(ROOT, b"d").await.unwrap();
    ground.grid.publishes_take(Duration::from_secs(1));
    // It looks empty when its removal sets out, and has a name when the file is published.
    let filled = theirs.settle();
    let removed = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ours.settle().await
    };
    let (filled, removed) = tokio::join!(filled, removed);
    filled.unwrap();
    removed.unwrap();
    assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE);
}

#[tokio::test]
async fn what_was_not_looked_at_before_a_crash_is_looked_at_after_it() {
    for remover in [false, true] {
        let ground = Ground::new();
        tree(&ground, &["above", "d"]).await;
        let folder = tempfile::tempdir().unwrap();
        let (crashing, other) = (ground.mount_with(folder.path(), Durability::Local).await, ground.mount().await);
        let (above, there) = (find(&crashing, &["above"]).await.unwrap(), find(&other, &["above"]).await.unwrap());
        let d = find(&crashing, &["above", "d"]).await.unwrap();
        let cap = ground.grid.child(&cap_of(&ground, "above"), "d").unwrap().cap;
        if remover {
            crashing.rm_dir(above, b"d").await.unwrap();
        } else {
            write(&crashing, d, "f", FILE).await;
            other.rm_dir(there, b"d").await.unwrap();
            other.settle().await.unwrap();
        }
        ground.grid.fail(&[Fault::ApplyThenFail; 9]);
        assert!(crashing.settle().await.is_err());
        if remover {
            // A client that does not look whether the name is still there.
            let file = Cap::parse("URI:LIT:mzxw6").unwrap();
            ground.grid.link(&cap, "f", &file);
        }
        assert!(content(&ground, &["above", "d"]).await.is_none());
        ground.grid.fail(&[]);
        drop(crashing);
        let again = ground.mount_with(folder.path(), Durability::Local).await;
        again.settle().await.unwrap();
        assert!(content(&ground, &["above", "d", "f"]).await.is_some(), "remover: {remover}");
        let told = again.writeback().status().conflicts;
        assert_eq!(told.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), ["above/d"]);
    }
}

#[tokio::test]
async fn trees_that_go_stay_down_to_what_was_put_there() {
    for remover_first in [false, true] {
        let ground = Ground::new();
        tree(&ground, &["d", "sub", "deep"]).await;
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        let d = find(&ours, &["d"]).await.unwrap();
        let sub = find(&ours, &["d", "sub"]).await.unwrap();
        let deep = find(&theirs, &["d", "sub", "deep"]).await.unwrap();
        ours.rm_dir(sub, b"deep").await.unwrap();
        ours.rm_dir(d, b"sub").await.unwrap();
        ours.rm_dir(ROOT, b"d").await.unwrap();
        write(&theirs, deep, "f", FILE).await;
        let (first, second) = if remover_first { (&ours, &theirs) } else { (&theirs, &ours) };
        first.settle().await.unwrap();
        second.settle().await.unwrap();
        assert_eq!(content(&ground, &["d", "sub", "deep", "f"]).await.unwrap(), FILE, "{remover_first}");
    }
}

#[tokio::test]
async fn a_directory_that_was_moved_does_not_come_back_under_its_old_name() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    tree(&ground, &["other"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let d = find(&theirs, &["d"]).await.unwrap();
    theirs.opendir(find(&theirs, &["other"]).await.unwrap()).await.unwrap();
    write(&theirs, d, "f", FILE).await;
    ours.mv(ROOT, b"d", ROOT, b"e", RenameMode::Replace).await.unwrap();
    ours.settle().await.unwrap();
    theirs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["e", "other"]);
    assert_eq!(content(&ground, &["e", "f"]).await.unwrap(), FILE);
    write(&theirs, d, "g", FILE).await;
    let other = find(&ours, &["other"]).await.unwrap();
    ours.mv(ROOT, b"e", other, b"e", RenameMode::Replace).await.unwrap();
    ours.settle().await.unwrap();
    theirs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["other"]);
    assert_eq!(content(&ground, &["other", "e", "g"]).await.unwrap(), FILE);
}

#[tokio::test]
async fn a_directory_that_another_replaces_keeps_what_was_put_there() {
    for replacer_first in [false, true] {
        let ground = Ground::new();
        tree(&ground, &["d"]).await;
        tree(&ground, &["new"]).await;
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        let d = find(&theirs, &["d"]).await.unwrap();
        ours.mv(ROOT, b"new", ROOT, b"d", RenameMode::Replace).await.unwrap();
        write(&theirs, d, "f", FILE).await;
        let (first, second) = if replacer_first { (&ours, &theirs) } else { (&theirs, &ours) };
        first.settle().await.unwrap();
        second.settle().await.unwrap();
        let names = ground.published().await;
        assert_eq!(names.len(), 2, "{names:?}");
        let mut found = 0;
        for name in &names {
            found += usize::from(content(&ground, &[name, "f"]).await.is_some_and(|content| content == FILE));
        }
        assert_eq!(found, 1, "{replacer_first} {names:?}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_looked_at_is_not_removed_and_holds_up_nothing_else() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let fs = ground.mount().await;
    fs.rm_dir(ROOT, b"d").await.unwrap();
    write(&fs, ROOT, "f", FILE).await;
    let cap = cap_of(&ground, "d");
    ground.grid.hide(&cap, true);
    assert!(fs.settle().await.is_err());
    assert_eq!(ground.published().await, ["d", "f"]);
    assert_eq!(fs.writeback().status().changes, 1);
    ground.grid.hide(&cap, false);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["f"]);
}

#[tokio::test(start_paused = true)]
async fn what_others_change_in_directories_in_use_is_told_until_they_are_left_alone() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let there = find(&theirs, &["d"]).await.unwrap();
    write(&theirs, there, "changed", FILE).await;
    write(&theirs, there, "removed", FILE).await;
    theirs.settle().await.unwrap();
    let news = ours.writeback().news();
    news.listen();
    let writeback = Arc::clone(ours.writeback());
    let running = tokio::spawn(async move { writeback.run().await });
    let d = find(&ours, &["d"]).await.unwrap();
    let changed = ours.lookup(d, b"changed").await.unwrap().ino;
    let removed = ours.lookup(d, b"removed").await.unwrap().ino;
    assert!(ours.lasts(changed) && ours.lasts(d));
    // What is done here is no news.
    write(&ours, d, "own", FILE).await;
    ours.settle().await.unwrap();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(news.wait(Duration::ZERO), []);
    assert!(ours.lasts(changed));
    let replacement = write(&theirs, there, "changed.new", b"other").await;
    theirs.mv(there, b"changed.new", there, b"changed", RenameMode::Replace).await.unwrap();
    theirs.rm(there, b"removed").await.unwrap();
    write(&theirs, there, "added", FILE).await;
    theirs.settle().await.unwrap();
    assert_eq!(theirs.getattr(replacement).await.unwrap().size, 5);
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut stale = ours.stale(news.wait(Duration::ZERO));
    stale.sort_by_key(|stale| format!("{stale:?}"));
    assert!(stale.contains(&Stale::Content(changed)), "{stale:?}");
    assert!(stale.contains(&Stale::Name { parent: d, name: b"removed".to_vec() }), "{stale:?}");
    assert!(!stale.iter().any(|s| matches!(s, Stale::Name { name, .. } if name != b"removed")), "{stale:?}");
    assert_eq!(ours.getattr(changed).await.unwrap().size, 5);
    assert_eq!(ours.getattr(removed).await.unwrap().nlink, 0);
    // Nobody asks any more: the grid is left alone.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let before = ground.grid.probes.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(ground.grid.probes.load(Ordering::Relaxed), before);
    assert!(!ours.lasts(changed));
    running.abort();
}

#[tokio::test]
async fn only_so_many_directories_are_watched() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    fs.writeback().news().listen();
    let mut files = Vec::new();
    for n in 0..80 {
        let dir = fs.mkdir(ROOT, format!("d{n}").as_bytes(), 0o755, ME).await.unwrap().ino;
        files.push(write(&fs, dir, "f", b"x").await);
    }
    let lasting = files.iter().filter(|ino| fs.lasts(**ino)).count();
    assert_eq!(lasting, 63, "beside the root");
}

/// All files below a directory, by path. Ways that lead back are left out.
async fn files(fs: &Filesystem, at: Ino, above: &str) -> Vec<(String, Vec<u8>)> {
    let handle = fs.opendir(at).await.unwrap();
    let mut found = Vec::new();
    for listed in fs.readdir(handle, true).await.unwrap().iter().skip(2) {
        let attr = match fs.lookup(at, &listed.name).await {
            Err(FsError::Loop) => continue,
            found => found.unwrap(),
        };
        let path = format!("{above}{}", String::from_utf8_lossy(&listed.name));
        if attr.kind == tahoefs::node::FileType::Directory {
            found.extend(Box::pin(files(fs, attr.ino, &format!("{path}/"))).await);
        } else {
            found.push((path, read(fs, attr.ino).await));
        }
    }
    fs.releasedir(handle);
    found
}

/// Makes `d` and `d/sub` with files of its own, and others by names that all use.
async fn make(fs: &Filesystem, who: &str) -> (Ino, Ino) {
    let d = fs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    let sub = fs.mkdir(d, b"sub", 0o755, ME).await.unwrap().ino;
    let own = fs.mkdir(d, format!("dir of {who}").as_bytes(), 0o755, ME).await.unwrap().ino;
    for dir in [d, sub, own] {
        write(fs, dir, &format!("of {who}"), who.as_bytes()).await;
        write(fs, dir, "both.txt", who.as_bytes()).await;
        write(fs, dir, "same", b"same").await;
    }
    (d, sub)
}

#[tokio::test]
async fn two_directories_under_one_name_become_one() {
    let ground = Ground::new();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.opendir(ROOT).await.unwrap();
    theirs.opendir(ROOT).await.unwrap();
    make(&theirs, "them").await;
    let (d, sub) = make(&ours, "us").await;
    let (attr, handle) = ours.create(sub, b"open", 0o644, ME, WRITE).await.unwrap();
    theirs.settle().await.unwrap();
    let root = cap_of(&ground, "d");
    ours.settle().await.unwrap();
    assert_eq!(ground.published().await, ["d"]);
    assert_eq!(cap_of(&ground, "d"), root, "theirs was there first");
    // Who has it open goes on in the other one.
    ours.write(attr.ino, handle, 0, Bytes::from_static(b"more")).await.unwrap();
    ours.release(handle);
    write(&ours, d, "later", b"later").await;
    ours.rm(sub, b"of them").await.unwrap();
    assert_eq!(find(&ours, &["d", "sub"]).await, Some(sub));
    ours.settle().await.unwrap();
    assert_eq!(ours.writeback().status().changes, 0);
    let mut expected = vec![
        ("d/dir of them/both.txt", "them"),
        ("d/dir of them/of them", "them"),
        ("d/dir of us/both.txt", "us"),
        ("d/dir of us/of us", "us"),
        ("d/sub/both.txt", "them"),
        ("d/sub/of us", "us"),
        ("d/sub/open", "more"),
        ("d/both.txt", "them"),
        ("d/later", "later"),
        ("d/of them", "them"),
        ("d/of us", "us"),
    ];
    expected.sort();
    let is_copy = |path: &str| path.contains("both (conflict ");
    for fs in [&ground.mount().await, &ours] {
        let mut found = files(fs, ROOT, "").await;
        found.sort();
        let same: Vec<_> = found.iter().filter(|(path, _)| path.ends_with("same")).collect();
        assert!(same.len() == 4 && same.iter().all(|(_, content)| content == b"same"), "{same:?}");
        let copies: Vec<_> = found.iter().filter(|(path, _)| is_copy(path)).collect();
        assert!(copies.len() == 2 && copies.iter().all(|(_, content)| content == b"us"), "{copies:?}");
        let rest = found.iter().filter(|(path, _)| !is_copy(path) && !path.ends_with("same"));
        let rest: Vec<_> = rest.map(|(path, content)| (path.as_str(), std::str::from_utf8(content).unwrap())).collect();
        assert_eq!(rest, expected);
    }
    let told = ours.writeback().status().conflicts;
    let mut told: Vec<_> = told.iter().map(|c| c.path.as_str()).collect();
    told.sort();
    assert_eq!(told, ["d/both.txt", "d/sub/both.txt"]);
}

#[tokio::test]
async fn directories_become_one_though_the_process_ends_at_any_publish() {
    for lost in 0..7 {
        let ground = Ground::new();
        let folder = tempfile::tempdir().unwrap();
        let ours = ground.mount_with(folder.path(), Durability::Local).await;
        let theirs = ground.mount().await;
        ours.opendir(ROOT).await.unwrap();
        make(&theirs, "them").await;
        make(&ours, "us").await;
        theirs.settle().await.unwrap();
        // The last of the list is met first; the others are published.
        let mut faults = vec![Fault::ApplyThenFail; 20];
        faults.extend(vec![Fault::ApplyTwice; lost]);
        ground.grid.fail(&faults);
        let _ = ours.settle().await;
        ground.grid.fail(&[]);
        drop(ours);
        let ours = ground.mount_with(folder.path(), Durability::Local).await;
        ours.settle().await.unwrap();
        assert_eq!(ground.published().await, ["d"], "{lost}");
        let found = files(&*ground.mount().await, ROOT, "").await;
        for who in ["us", "them"] {
            for dir in ["d/", "d/sub/", &format!("d/dir of {who}/")] {
                let path = format!("{dir}of {who}");
                assert!(found.iter().any(|(p, content)| *p == path && content == who.as_bytes()), "{lost} {path}");
                let both = |(p, content): &&(String, Vec<u8>)| {
                    p.starts_with(&format!("{dir}both")) && content == who.as_bytes()
                };
                assert_eq!(found.iter().filter(both).count(), 1, "{lost} {dir} {who} {found:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_directory_that_others_may_know_keeps_its_name_beside_another() {
    let ground = Ground::new();
    tree(&ground, &["old"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let old = find(&ours, &["old"]).await.unwrap();
    write(&ours, old, "f", FILE).await;
    ours.mv(ROOT, b"old", ROOT, b"d", RenameMode::Replace).await.unwrap();
    let d = theirs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&theirs, d, "g", FILE).await;
    theirs.settle().await.unwrap();
    ours.settle().await.unwrap();
    let names = ground.published().await;
    assert!(names.len() == 2 && names[0] == "d" && names[1].starts_with("d (conflict "), "{names:?}");
    assert_eq!(content(&ground, &["d", "g"]).await.unwrap(), FILE);
    assert_eq!(content(&ground, &[&names[1], "f"]).await.unwrap(), FILE);
}

#[tokio::test]
async fn others_know_a_directory_also_when_the_answer_to_its_publish_was_lost() {
    let ground = Ground::new();
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let mine = ours.mkdir(ROOT, b"mine", 0o755, ME).await.unwrap().ino;
    write(&ours, mine, "f", FILE).await;
    ground.grid.fail(&[Fault::ApplyThenFail]);
    assert!(ours.settle().await.is_err());
    ours.writeback().expire();
    ours.lookup(ROOT, b"mine").await.unwrap();
    ours.settle().await.unwrap();
    ours.mv(ROOT, b"mine", ROOT, b"d", RenameMode::Replace).await.unwrap();
    let d = theirs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
    write(&theirs, d, "g", FILE).await;
    theirs.settle().await.unwrap();
    ours.settle().await.unwrap();
    let names = ground.published().await;
    assert!(names.len() == 2 && names[0] == "d" && names[1].starts_with("d (conflict "), "{names:?}");
}

#[tokio::test]
async fn what_cannot_be_merged_holds_up_nothing_else() {
    for lost in [false, true] {
        let ground = Ground::new();
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        ours.opendir(ROOT).await.unwrap();
        let there = theirs.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
        write(&theirs, there, "f", FILE).await;
        theirs.settle().await.unwrap();
        let cap = cap_of(&ground, "d");
        let d = ours.mkdir(ROOT, b"d", 0o755, ME).await.unwrap().ino;
        write(&ours, d, "g", FILE).await;
        write(&ours, ROOT, "other", FILE).await;
        if lost {
            ground.grid.forget(&cap);
            ours.settle().await.unwrap();
            let names = ground.published().await;
            assert!(names.len() == 3 && names[1].starts_with("d (conflict "), "{names:?}");
            assert_eq!(content(&ground, &[&names[1], "g"]).await.unwrap(), FILE);
        } else {
            ground.grid.hide(&cap, true);
            assert!(ours.settle().await.is_err());
            assert_eq!(ground.published().await, ["d", "other"]);
            assert_eq!(ours.writeback().status().changes, 1);
            ground.grid.hide(&cap, false);
            ours.settle().await.unwrap();
            assert_eq!(content(&ground, &["d", "g"]).await.unwrap(), FILE);
        }
        assert_eq!(ours.writeback().status().changes, 0);
    }
}

#[tokio::test]
async fn a_directory_that_is_lost_keeps_its_name_and_holds_up_nothing() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let fs = ground.mount().await;
    fs.rm_dir(ROOT, b"d").await.unwrap();
    write(&fs, ROOT, "f", FILE).await;
    ground.grid.forget(&cap_of(&ground, "d"));
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await, ["d", "f"]);
    assert_eq!(fs.writeback().status().changes, 0);
}

/// A table that was read while a publish was looked after is newer than the one that it made.
#[tokio::test(start_paused = true)]
async fn what_was_seen_while_a_publish_ends_stays_in_sight() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, cap) = (ground.mount().await, cap_of(&ground, "d"));
    let d = find(&ours, &["d"]).await.unwrap();
    write(&ours, d, "ours", FILE).await;
    ground.grid.probes_take(Duration::from_secs(2));
    let publish = ours.settle();
    let look = async {
        // Ours is published, and its parent is being looked at.
        tokio::time::sleep(Duration::from_secs(1)).await;
        ground.grid.link(&cap, "theirs", &Cap::parse("URI:LIT:mzxw6").unwrap());
        ours.writeback().expire();
        ours.lookup(d, b"theirs").await.unwrap();
    };
    let (publish, ()) = tokio::join!(publish, look);
    publish.unwrap();
    ours.lookup(d, b"theirs").await.unwrap();
}

#[tokio::test]
async fn who_cannot_look_whether_a_directory_is_still_named_looks_later() {
    let ground = Ground::new();
    tree(&ground, &["above", "d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let d = find(&ours, &["above", "d"]).await.unwrap();
    let there = find(&theirs, &["above"]).await.unwrap();
    write(&ours, d, "f", FILE).await;
    theirs.rm_dir(there, b"d").await.unwrap();
    theirs.settle().await.unwrap();
    let above = cap_of(&ground, "above");
    ground.grid.hide(&above, true);
    assert!(ours.settle().await.is_err());
    assert!(ours.writeback().status().changes > 0);
    ground.grid.hide(&above, false);
    ours.settle().await.unwrap();
    assert_eq!(content(&ground, &["above", "d", "f"]).await.unwrap(), FILE);
}

#[tokio::test]
async fn a_flush_of_something_else_removes_no_directory_unseen() {
    let ground = Ground::new();
    tree(&ground, &["d"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    ours.rm_dir(ROOT, b"d").await.unwrap();
    write(&ours, ROOT, "new", FILE).await;
    let d = find(&theirs, &["d"]).await.unwrap();
    write(&theirs, d, "f", FILE).await;
    theirs.settle().await.unwrap();
    let scope = ours.scope(std::path::Path::new("new")).await.unwrap();
    ours.settle_scope(scope).await.unwrap();
    assert_eq!(ground.published().await, ["d", "new"]);
    ours.settle().await.unwrap();
    assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_removed_while_others_are_looked_at_is_looked_at_too() {
    let ground = Ground::new();
    tree(&ground, &["a"]).await;
    tree(&ground, &["b"]).await;
    let (ours, theirs) = (ground.mount().await, ground.mount().await);
    let b = find(&theirs, &["b"]).await.unwrap();
    ours.rm_dir(ROOT, b"a").await.unwrap();
    ours.lookup(ROOT, b"b").await.unwrap();
    ground.grid.probes_take(Duration::from_secs(1));
    let both = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        ours.rm_dir(ROOT, b"b").await.unwrap();
        ground.grid.link(&cap_of(&ground, "b"), "f", &Cap::parse("URI:LIT:mzxw6").unwrap());
    };
    let (settled, ()) = tokio::join!(ours.settle(), both);
    settled.unwrap();
    ours.settle().await.unwrap();
    assert!(theirs.lookup(b, b"f").await.is_ok());
    assert_eq!(ground.published().await, ["b"]);
}

/// A directory that has been put over another, and was moved on from there.
#[tokio::test]
async fn what_was_replaced_on_the_way_is_looked_at() {
    for moved_on in [false, true] {
        let ground = Ground::new();
        tree(&ground, &["d"]).await;
        tree(&ground, &["e"]).await;
        let (ours, theirs) = (ground.mount().await, ground.mount().await);
        ours.mv(ROOT, b"d", ROOT, b"x", RenameMode::Replace).await.unwrap();
        ours.mv(ROOT, b"e", ROOT, b"x", RenameMode::Replace).await.unwrap();
        if moved_on {
            ours.mv(ROOT, b"x", ROOT, b"z", RenameMode::Replace).await.unwrap();
        } else {
            ours.rm_dir(ROOT, b"x").await.unwrap();
        }
        let d = find(&theirs, &["d"]).await.unwrap();
        write(&theirs, d, "f", FILE).await;
        theirs.settle().await.unwrap();
        ours.settle().await.unwrap();
        assert_eq!(content(&ground, &["d", "f"]).await.unwrap(), FILE, "{moved_on}");
    }
}
