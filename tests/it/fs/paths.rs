//! A directory that is reachable by two paths, `x` and `y`: what is done by one path shows by the other.

use super::shared::{content, find};
use super::*;

const OLD: &[u8] = &[1; 1000];
const NEW: &[u8] = &[2; 1000];

/// A mount, and what it shows at `x` and `y`: one directory, with the file `f` and the directory `sub`.
async fn two_paths(ground: &Ground) -> (Arc<Filesystem>, Ino, Ino) {
    let first = ground.mount().await;
    let x = first.mkdir(ROOT, b"x", 0o755, ME).await.unwrap().ino;
    write(&first, x, "f", OLD).await;
    first.mkdir(x, b"sub", 0o755, ME).await.unwrap();
    first.mkdir(ROOT, b"other", 0o755, ME).await.unwrap();
    first.settle().await.unwrap();
    ground.grid.link(&ground.root, "y", &ground.grid.child(&ground.root, "x").unwrap().cap);
    let fs = ground.mount().await;
    let (x, y) = (find(&fs, &["x"]).await.unwrap(), find(&fs, &["y"]).await.unwrap());
    (fs, x, y)
}

/// What is in the directory, as another client sees it.
fn names(ground: &Ground) -> Vec<&'static str> {
    let dir = ground.grid.child(&ground.root, "x").unwrap().cap;
    let all = ["f", "g", "new", "sub", "sub2"];
    all.into_iter().filter(|name| ground.grid.child(&dir, name).is_some()).collect()
}

async fn put(fs: &Filesystem, ino: Ino, data: &[u8]) {
    let handle = fs.open(ino, WRITE).await.unwrap();
    fs.write(ino, handle, 0, Bytes::copy_from_slice(data)).await.unwrap();
    fs.release(handle);
}

#[tokio::test]
async fn a_file_that_was_moved_by_one_path_is_written_to_under_its_new_name() {
    for (from, to) in [("x", "x"), ("y", "y"), ("x", "y"), ("x", "other"), ("y", "other")] {
        let ground = Ground::new();
        let (fs, _, _) = two_paths(&ground).await;
        let opened = find(&fs, &["y", "f"]).await.unwrap();
        let handle = fs.open(opened, WRITE).await.unwrap();
        assert!(find(&fs, &["x", "f"]).await.is_some());
        let (from, above) = (find(&fs, &[from]).await.unwrap(), find(&fs, &[to]).await.unwrap());
        fs.mv(from, b"f", above, b"g", RenameMode::Replace).await.unwrap();
        let g = find(&fs, &[to, "g"]).await.unwrap();
        put(&fs, g, NEW).await;
        fs.write(opened, handle, 1000, Bytes::from_static(b"more")).await.unwrap();
        fs.release(handle);
        fs.settle().await.unwrap();
        assert_eq!(content(&ground, &[to, "g"]).await, Some([NEW, b"more"].concat()), "to {to}");
        let left: &[&str] = if to == "other" { &["sub"] } else { &["g", "sub"] };
        assert_eq!(names(&ground), left, "to {to}");
        for path in ["x", "y"] {
            assert!(find(&fs, &[path, "f"]).await.is_none());
            assert_eq!(find(&fs, &[path, "g"]).await.is_some(), to != "other");
        }
    }
}

/// A file without a birth id, as other clients make them, is an inode of its own for each path.
#[tokio::test]
async fn what_is_written_by_one_path_stays_when_attributes_are_set_by_the_other() {
    let ground = Ground::new();
    drop(two_paths(&ground).await);
    let dir = ground.grid.child(&ground.root, "x").unwrap().cap;
    ground.grid.link(&dir, "new", &ground.grid.child(&dir, "f").unwrap().cap);
    let fs = ground.mount().await;
    let (by_x, by_y) = (find(&fs, &["x", "new"]).await.unwrap(), find(&fs, &["y", "new"]).await.unwrap());
    put(&fs, by_y, NEW).await;
    fs.setattr(by_x, SetAttr { mode: Some(0o600), ..SetAttr::default() }).await.unwrap();
    assert_eq!(fs.getattr(by_y).await.unwrap().mode, 0o600);
    fs.settle().await.unwrap();
    assert_eq!(content(&ground, &["x", "new"]).await.unwrap(), NEW);
}

#[tokio::test]
async fn a_file_that_was_removed_by_one_path_does_not_come_back() {
    for by in ["x", "y"] {
        let ground = Ground::new();
        let (fs, _, _) = two_paths(&ground).await;
        assert!(find(&fs, &["x", "f"]).await.is_some());
        let f = find(&fs, &["y", "f"]).await.unwrap();
        let handle = fs.open(f, WRITE).await.unwrap();
        let by = find(&fs, &[by]).await.unwrap();
        fs.rm(by, b"f").await.unwrap();
        fs.write(f, handle, 0, Bytes::from_static(NEW)).await.unwrap();
        fs.release(handle);
        fs.settle().await.unwrap();
        assert_eq!(names(&ground), ["sub"]);
    }
}

#[tokio::test]
async fn a_directory_that_was_moved_by_one_path_keeps_its_new_name() {
    for to in ["x", "y", "other"] {
        let ground = Ground::new();
        let (fs, x, _) = two_paths(&ground).await;
        let (by_x, by_y) = (find(&fs, &["x", "sub"]).await.unwrap(), find(&fs, &["y", "sub"]).await.unwrap());
        let above = find(&fs, &[to]).await.unwrap();
        fs.mv(x, b"sub", above, b"sub2", RenameMode::Replace).await.unwrap();
        // Its times go along with a name.
        write(&fs, by_x, "one", OLD).await;
        let other = fs.create(by_y, b"two", 0o644, ME, WRITE).await;
        assert_eq!(other.is_ok(), to != "other", "no path of it is left to where another shows it");
        fs.settle().await.unwrap();
        assert_eq!(names(&ground), if to == "other" { vec!["f"] } else { vec!["f", "sub2"] }, "to {to}");
        assert_eq!(content(&ground, &[to, "sub2", "one"]).await, Some(OLD.to_vec()), "to {to}");
    }
}

#[tokio::test]
async fn a_directory_cannot_be_moved_into_itself_by_another_path() {
    let ground = Ground::new();
    let (fs, x, _) = two_paths(&ground).await;
    let below = find(&fs, &["y", "sub"]).await.unwrap();
    let deeper = fs.mkdir(below, b"deeper", 0o755, ME).await.unwrap().ino;
    for into in [below, deeper] {
        assert_eq!(fs.mv(x, b"sub", into, b"t", RenameMode::Replace).await, Err(FsError::Invalid));
    }
    fs.settle().await.unwrap();
    assert_eq!(names(&ground), ["f", "sub"]);
}

#[tokio::test]
async fn what_another_path_showed_is_told() {
    let ground = Ground::new();
    let (fs, x, y) = two_paths(&ground).await;
    let news = fs.writeback().news();
    news.listen();
    let told = |fs: &Filesystem| fs.stale(news.wait(Duration::ZERO));
    let name = |name: &str| Stale::Name { parent: y, name: name.into() };
    for path in ["x", "y"] {
        assert!(find(&fs, &[path, "f"]).await.is_some() && find(&fs, &[path, "sub"]).await.is_some());
    }
    assert_eq!(told(&fs), []);
    fs.mv(x, b"f", x, b"g", RenameMode::Replace).await.unwrap();
    assert!(told(&fs).contains(&name("f")));
    fs.mv(x, b"sub", x, b"sub2", RenameMode::Replace).await.unwrap();
    assert!(told(&fs).contains(&name("sub")));
    fs.rm(x, b"g").await.unwrap();
    assert!(told(&fs).contains(&name("g")));
    fs.rm_dir(x, b"sub2").await.unwrap();
    assert!(told(&fs).contains(&name("sub2")));
    write(&fs, x, "new", NEW).await;
    assert!(told(&fs).iter().all(|stale| !matches!(stale, Stale::Name { .. })));
}
