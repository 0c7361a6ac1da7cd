//! Names that are one in NFC, where the grid keeps names: all of them stay.

use tahoefs::node::{Edit, Expect, FileType};

use super::*;

/// The NFC form, and others.
const FORMS: [&str; 3] = ["\u{1eb9}\u{301}.txt", "e\u{323}\u{301}.txt", "e\u{301}\u{323}.txt"];

async fn names(fs: &Filesystem, dir: Ino) -> Vec<String> {
    let handle = fs.opendir(dir).await.unwrap();
    let listed = fs.readdir(handle, true).await.unwrap();
    fs.releasedir(handle);
    let mut names: Vec<_> =
        listed.iter().skip(2).map(|listed| String::from_utf8_lossy(&listed.name).into_owned()).collect();
    names.sort();
    names
}

fn sorted(names: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
    names.sort();
    names
}

async fn content(fs: &Filesystem, dir: Ino, name: &str) -> Result<Vec<u8>, FsError> {
    let attr = fs.lookup(dir, name.as_bytes()).await?;
    Ok(read(fs, attr.ino).await)
}

/// Another client changes the root.
async fn edit(ground: &Ground, edit: Edit) {
    let dir = Factory(Arc::clone(&ground.grid)).directory(&ground.root).unwrap();
    dir.modify(&Cx::new(Priority::Waiting, 1 << 20), &[edit]).await.unwrap();
}

async fn has_all(fs: &Filesystem, names_of: &[&str]) {
    assert_eq!(names(fs, ROOT).await, sorted(names_of));
    for name in names_of {
        assert_eq!(content(fs, ROOT, name).await.unwrap(), name.as_bytes(), "{name:?}");
    }
}

#[tokio::test]
async fn names_that_are_one_in_nfc_are_all_kept() {
    let ground = Ground::new();
    let journal = tempfile::tempdir().unwrap();
    let mut fs = ground.mount_with(journal.path(), Durability::Local).await;
    for name in FORMS {
        write(&fs, ROOT, name, name.as_bytes()).await;
        assert_eq!(fs.mknod(ROOT, name.as_bytes(), FileType::File, 0o644, 0, ME).await, Err(FsError::Exists));
    }
    has_all(&fs, &FORMS).await;
    assert_eq!(fs.lookup(ROOT, "\u{e9}\u{323}.txt".as_bytes()).await, Err(FsError::NotFound));
    let numbers = async |fs: &Filesystem| {
        let mut numbers = Vec::new();
        for name in FORMS {
            numbers.push(fs.lookup(ROOT, name.as_bytes()).await.unwrap().ino);
        }
        numbers
    };
    let before = numbers(&fs).await;
    // The process ends, and the journal has them.
    drop(fs);
    fs = ground.mount_with(journal.path(), Durability::Local).await;
    has_all(&fs, &FORMS).await;
    fs.settle().await.unwrap();
    let published = ground.published().await;
    assert_eq!(published.len(), 3);
    assert!(
        published.iter().all(|name| name == FORMS[0] || name.starts_with("\u{1eb9}\u{301}~") && name.ends_with(".txt"))
    );
    assert!(published.contains(&FORMS[0].to_owned()), "{published:?}");
    let other = ground.mount().await;
    has_all(&other, &FORMS).await;
    assert_eq!(numbers(&other).await, before);
    // The first goes; who had to stand beside it stays where it is.
    other.rm(ROOT, FORMS[0].as_bytes()).await.unwrap();
    assert_eq!(content(&other, ROOT, FORMS[0]).await, Err(FsError::NotFound));
    has_all(&other, &FORMS[1..]).await;
    other.settle().await.unwrap();
    let third = ground.mount().await;
    has_all(&third, &FORMS[1..]).await;
    // What comes anew takes the place, and one beside is found all the same.
    write(&third, ROOT, FORMS[0], FORMS[0].as_bytes()).await;
    third.settle().await.unwrap();
    has_all(&*ground.mount().await, &FORMS).await;
    assert_eq!(numbers(&third).await[1..], before[1..]);
}

#[tokio::test]
async fn renames_and_links_between_names_that_are_one_in_nfc() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    let [a, b, c] = FORMS.map(str::as_bytes);
    let file = write(&fs, ROOT, FORMS[0], b"one").await;
    // The name alone changes: the place on the grid is the same.
    fs.mv(ROOT, a, ROOT, b, RenameMode::NoReplace).await.unwrap();
    assert_eq!(names(&fs, ROOT).await, [FORMS[1]]);
    fs.settle().await.unwrap();
    assert_eq!(ground.published().await.len(), 1);
    assert_eq!(names(&*ground.mount().await, ROOT).await, [FORMS[1]]);
    // A link to another form, which is one file; and a directory.
    assert_eq!(fs.link(file, ROOT, c).await.unwrap().nlink, 2);
    let dir = fs.mkdir(ROOT, a, 0o755, ME).await.unwrap().ino;
    write(&fs, dir, "f", b"in").await;
    assert_eq!(fs.mv(ROOT, b, ROOT, a, RenameMode::Replace).await, Err(FsError::IsDirectory));
    assert_eq!(fs.mv(ROOT, b, ROOT, c, RenameMode::NoReplace).await, Err(FsError::Exists));
    fs.settle().await.unwrap();
    let other = ground.mount().await;
    assert_eq!(names(&other, ROOT).await, sorted(&FORMS));
    assert_eq!(content(&other, ROOT, FORMS[1]).await.unwrap(), b"one");
    assert_eq!(content(&other, ROOT, FORMS[2]).await.unwrap(), b"one");
    let dir = other.lookup(ROOT, a).await.unwrap().ino;
    assert_eq!(content(&other, dir, "f").await.unwrap(), b"in");
    // Into the directory, over each other, and away.
    other.mv(ROOT, c, dir, b, RenameMode::Replace).await.unwrap();
    other.mv(ROOT, b, dir, a, RenameMode::Replace).await.unwrap();
    other.mv(ROOT, a, ROOT, b, RenameMode::Replace).await.unwrap();
    assert_eq!(names(&other, ROOT).await, [FORMS[1]]);
    other.settle().await.unwrap();
    let third = ground.mount().await;
    let dir = third.lookup(ROOT, b).await.unwrap().ino;
    assert_eq!(names(&third, dir).await, sorted(&["f", FORMS[0], FORMS[1]]));
    third.rm(dir, b"f").await.unwrap();
    third.rm(dir, a).await.unwrap();
    assert_eq!(third.rm_dir(ROOT, b).await, Err(FsError::NotEmpty));
    third.rm(dir, b).await.unwrap();
    third.rm_dir(ROOT, b).await.unwrap();
    third.settle().await.unwrap();
    assert!(ground.published().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn names_that_two_clients_make_at_the_same_time_are_all_kept() {
    for directories in [false, true] {
        let ground = Ground::new();
        let (one, two) = (ground.mount().await, ground.mount().await);
        for (fs, name) in [(&one, FORMS[0]), (&two, FORMS[1])] {
            if directories {
                let dir = fs.mkdir(ROOT, name.as_bytes(), 0o755, ME).await.unwrap().ino;
                write(fs, dir, "f", name.as_bytes()).await;
            } else {
                write(fs, ROOT, name, name.as_bytes()).await;
            }
        }
        let file = async |fs: &Filesystem, name: &str| {
            let at = fs.lookup(ROOT, name.as_bytes()).await.unwrap().ino;
            if directories { content(fs, at, "f").await.unwrap() } else { read(fs, at).await }
        };
        one.settle().await.unwrap();
        two.settle().await.unwrap();
        tokio::time::advance(Duration::from_secs(11)).await;
        for fs in [&one, &two, &ground.mount().await] {
            assert_eq!(names(fs, ROOT).await, sorted(&FORMS[..2]), "{directories}");
            for name in &FORMS[..2] {
                assert_eq!(file(fs, name).await, name.as_bytes());
            }
        }
        assert!(two.writeback().status().conflicts.is_empty(), "nobody needs to be told of it");
        // Each changes its own, and the other's.
        for (fs, name) in [(&two, FORMS[1]), (&two, FORMS[0]), (&one, FORMS[1])] {
            let ino = fs.lookup(ROOT, name.as_bytes()).await.unwrap().ino;
            fs.setattr(ino, SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.unwrap();
            fs.settle().await.unwrap();
        }
        let last = ground.mount().await;
        assert_eq!(names(&last, ROOT).await, sorted(&FORMS[..2]));
        for name in &FORMS[..2] {
            assert_eq!(last.lookup(ROOT, name.as_bytes()).await.unwrap().mode, 0o700);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_writes_on_while_another_takes_the_place_keeps_the_name() {
    let ground = Ground::new();
    let (one, two) = (ground.mount().await, ground.mount().await);
    write(&one, ROOT, FORMS[0], b"theirs").await;
    let (attr, handle) = two.create(ROOT, FORMS[1].as_bytes(), 0o644, ME, WRITE).await.unwrap();
    two.write(attr.ino, handle, 0, Bytes::from_static(b"ours")).await.unwrap();
    one.settle().await.unwrap();
    two.settle().await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    two.write(attr.ino, handle, 4, Bytes::from_static(b" and more")).await.unwrap();
    two.flush(attr.ino, handle).await.unwrap();
    two.release(handle);
    two.settle().await.unwrap();
    for fs in [&two, &ground.mount().await] {
        assert_eq!(names(fs, ROOT).await, sorted(&FORMS[..2]));
        assert_eq!(content(fs, ROOT, FORMS[0]).await.unwrap(), b"theirs");
        assert_eq!(content(fs, ROOT, FORMS[1]).await.unwrap(), b"ours and more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_name_takes_the_place_of_the_name_given() {
    let ground = Ground::new();
    let (one, two) = (ground.mount().await, ground.mount().await);
    write(&one, ROOT, FORMS[1], b"theirs").await;
    let ours = write(&two, ROOT, FORMS[1], b"ours").await;
    one.settle().await.unwrap();
    two.settle().await.unwrap();
    tokio::time::advance(Duration::from_secs(11)).await;
    two.setattr(ours, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    for fs in [&two, &ground.mount().await] {
        let names = names(fs, ROOT).await;
        assert_eq!(names.len(), 2);
        assert!(
            names.contains(&FORMS[1].to_owned()) && names.iter().any(|name| name.contains("(conflict ")),
            "{names:?}"
        );
    }
}

#[tokio::test]
async fn of_two_entries_that_were_given_one_name_the_second_shows_its_own() {
    let ground = Ground::new();
    let fs = ground.mount().await;
    write(&fs, ROOT, FORMS[0], b"first").await;
    write(&fs, ROOT, FORMS[1], b"second").await;
    fs.settle().await.unwrap();
    let beside = ground.published().await.into_iter().find(|name| name.contains('~')).unwrap();
    // Who has not heard of the second gives the place of the first to a third, of the second's name.
    fs.rm(ROOT, FORMS[0].as_bytes()).await.unwrap();
    fs.settle().await.unwrap();
    let second = ground.grid.child(&ground.root, &beside).unwrap();
    edit(&ground, Edit::Unlink { name: beside.as_str().into(), expect: Expect::Anything }).await;
    let fs = ground.mount().await;
    write(&fs, ROOT, FORMS[1], b"third").await;
    fs.settle().await.unwrap();
    let (name, expect) = (beside.as_str().into(), Expect::Anything);
    edit(&ground, Edit::Link { name, cap: second.cap, metadata: Some(second.metadata), expect }).await;
    let fs = ground.mount().await;
    assert_eq!(names(&fs, ROOT).await, sorted(&[FORMS[1], &beside]));
    assert_eq!(content(&fs, ROOT, FORMS[1]).await.unwrap(), b"third");
    assert_eq!(content(&fs, ROOT, &beside).await.unwrap(), b"second");
    fs.rm(ROOT, FORMS[1].as_bytes()).await.unwrap();
    assert_eq!(names(&fs, ROOT).await, [FORMS[1]]);
    assert_eq!(content(&fs, ROOT, FORMS[1]).await.unwrap(), b"second");
}
