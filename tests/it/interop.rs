//! One grid, two clients: what a mount writes the reference reads and changes, and the other way round.
//!
//! The embedded grid's stores become the node directories of reference servers, identities and all, and come back.

mod foreign;
mod kept;
mod mutables;
mod real;
mod tree;

use std::fs::{self, FileTimes, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tahoefs::node::Timestamp;

use crate::mount::world::World;
use crate::tahoe::{Grid, GridSpec, ServerSpec};
use tree::{Seen, Tree, assert_healthy, assert_same, assert_stored, digest, mounted, seen, stored};

const STORES: usize = 5;

#[test]
fn a_tree_goes_to_the_reference_and_back_with_3_of_5() {
    there_and_back(3, 5);
}

#[test]
fn a_tree_goes_to_the_reference_and_back_with_3_of_10() {
    there_and_back(3, 10);
}

/// A home with an embedded grid of five stores, not mounted.
fn world(needed: u32, total: u32) -> World {
    let world = World::new();
    let counts = [("--stores", STORES as u32), ("--needed", needed), ("--happy", STORES as u32), ("--total", total)];
    let mut args = vec!["init".to_owned()];
    args.extend(counts.iter().flat_map(|(flag, n)| [(*flag).to_owned(), n.to_string()]));
    world.ok(&args);
    world
}

/// Reference servers on the stores themselves, and a client of theirs with the same encoding.
fn serve(world: &World, needed: u32, total: u32) -> Grid {
    let servers = (0..STORES).map(|n| ServerSpec::InPlace(world.store(n))).collect();
    Grid::start(GridSpec { servers, needed, happy: STORES as u32, total })
}

/// The cap of `tahoe:`.
fn root_cap(world: &World) -> String {
    let aliases = fs::read_to_string(world.node_directory().join("private/aliases")).expect("aliases");
    let line = aliases.lines().find_map(|line| line.strip_prefix("tahoe: "));
    line.expect("the mount made an alias").trim().to_owned()
}

/// `n` bytes that no other `seed` gives.
fn bytes(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 131 + i / 251 + seed * 17) as u8 ^ (seed as u8).wrapping_mul((i >> 3) as u8)).collect()
}

fn set_time(path: &Path, secs: u64, nanos: u32) {
    let times = FileTimes::new().set_modified(UNIX_EPOCH + Duration::new(secs, nanos));
    fs::File::open(path).unwrap().set_times(times).unwrap();
}

/// Everything that this version stores, each content another.
fn write(world: &World) {
    fs::create_dir_all(world.at("sub/deeper")).unwrap();
    fs::create_dir_all(world.at("\u{65e5}\u{672c}/\u{e9}t\u{e9} 100%")).unwrap();
    fs::create_dir(world.at("nothing in it")).unwrap();
    let files = [
        ("empty", 0, 0o600),
        ("literal", 55, 0o4711),
        ("small", 56, 0o640),
        ("several segments", 3_500_000, 0o644),
        ("one segment", 1 << 20, 0o400),
        ("sub/deeper/leaf", 1_000, 0o644),
        ("sub/stays", 131_073, 0o755),
        ("to be keyed", 70, 0o664),
        ("u\u{308} as given", 80, 0o644),
        ("\u{65e5}\u{672c}/\u{e9}t\u{e9} 100%/\u{8a9e}.txt", 5_000, 0o644),
    ];
    for (i, (path, size, mode)) in files.into_iter().enumerate() {
        let path = world.at(path);
        fs::write(&path, bytes(size, i)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        set_time(&path, 1_111_111_111 + i as u64 * 86_400, 123_456_789 + i as u32);
    }
    chown(world.at("sub/stays"), Some(1234), Some(5678)).unwrap();
    symlink("sub/deeper/leaf", world.at("link")).unwrap();
    symlink("../".repeat(100), world.at("sub/long link")).unwrap();
    fs::set_permissions(world.at("sub/deeper"), Permissions::from_mode(0o2750)).unwrap();
    for (i, path) in ["sub/deeper", "sub", "nothing in it"].into_iter().enumerate() {
        set_time(&world.at(path), 999_999_999, 987_654_321 + i as u32);
    }
}

fn there_and_back(needed: u32, total: u32) {
    let world = world(needed, total);
    world.mount(&[]);
    write(&world);
    let written = mounted(&world.mountpoint());
    world.unmount();
    let root = root_cap(&world);

    let mut grid = serve(&world, needed, total);
    assert_stored(&grid, &root, &written, true);
    assert_healthy(&grid, &root, written.len() + 1, total);
    let expected = change_by_reference(&grid, &root, written);
    grid.stop();

    world.mount(&[]);
    assert_same(&mounted(&world.mountpoint()), &expected);
    change_by_mount(&world);
    let changed = mounted(&world.mountpoint());
    world.remount();
    assert_same(&mounted(&world.mountpoint()), &changed);
    world.unmount();

    let mut grid = serve(&world, needed, total);
    assert_stored(&grid, &root, &changed, false);
    assert_healthy(&grid, &root, changed.len() + 1, total);
    let kept = stored(&grid, &root);
    for path in ["sub/ours keyed", "theirs renamed"] {
        assert_eq!(kept[path].metadata["foreign"], foreign_keys(), "{path}");
        assert_eq!(kept[path].metadata["st_mode"], 0o100_604, "{path}");
    }
    grid.stop();
}

#[test]
fn a_mutable_file_is_written_in_place_by_both() {
    let world = world(3, 5);
    world.mount(&[]);
    world.unmount();
    let mut content = bytes(300_000, 1);
    let source = world.home().join("source");
    fs::write(&source, &content).unwrap();
    world.ok(&["put".as_ref(), "--format".as_ref(), "SDMF".as_ref(), source.as_os_str(), "tahoe:m".as_ref()]);
    world.mount(&[]);
    let file = fs::OpenOptions::new().write(true).open(world.at("m")).unwrap();
    file.write_all_at(b"ours", 131_070).unwrap();
    content[131_070..131_074].copy_from_slice(b"ours");
    drop(file);
    fs::OpenOptions::new().append(true).open(world.at("m")).unwrap().write_all(b"appended").unwrap();
    content.extend(b"appended");
    set_time(&world.at("m"), 1_000_000_000, 1);
    world.unmount();
    let root = root_cap(&world);

    let mut grid = serve(&world, 3, 5);
    let before = stored(&grid, &root).remove("m").unwrap();
    assert!(before.cap.starts_with("URI:SSK:"));
    assert!(grid.get(&before.cap, "") == content);
    assert_healthy(&grid, &root, 2, 5);
    // The reference writes into it, too, and leaves the edge alone.
    let theirs = bytes(200_000, 2);
    grid.put_at(&root, "m", &theirs);
    let after = stored(&grid, &root).remove("m").unwrap();
    assert_eq!((&after.cap, &after.metadata), (&before.cap, &before.metadata));
    grid.stop();

    world.mount(&[]);
    let shown = seen(&world.at("m"));
    assert_eq!((shown.size, shown.digest), (200_000, digest(&theirs)));
    assert!(shown.mtime.secs > 1_000_000_000, "the times were those of another version");
    let file = fs::OpenOptions::new().write(true).open(world.at("m")).unwrap();
    file.set_len(100_000).unwrap();
    drop(file);
    world.remount();
    assert!(fs::read(world.at("m")).unwrap() == theirs[..100_000]);
}

/// What other programs may put beside our keys.
fn foreign_keys() -> Value {
    // Parsed, not built: so the number keeps the spelling that Python gives it.
    let text = r#"{"list": [1, 2.5e-07, null, true], "\u00e9": {"deep": "text"}}"#;
    serde_json::from_str(text).expect("JSON")
}

/// Changes the tree through the reference's web API; returns what a mount must show then.
fn change_by_reference(grid: &Grid, root: &str, before: Tree) -> Tree {
    let mut expected = before;
    let sub = stored(grid, root)["sub"].cap.clone();

    let contents = [
        ("added literal", bytes(20, 100)),
        ("sub/added \u{fc}.bin", bytes(2_200_000, 101)),
        ("made/inside", bytes(300, 102)),
        ("small", bytes(70_000, 103)),
        ("link", bytes(200, 104)),
        ("theirs keyed", bytes(90, 105)),
    ];
    grid.mkdir_at(root, "made");
    for (path, content) in &contents {
        grid.put_at(root, path, content);
    }
    let theirs = grid.list_json(root, "theirs keyed")[1]["ro_uri"].clone();
    let keyed = &stored(grid, root)["to be keyed"];
    let mut metadata = keyed.metadata.clone();
    metadata["foreign"] = foreign_keys();
    let metadata_of_theirs = json!({"foreign": foreign_keys(), "mtime": 1234567890.25});
    grid.set_children(
        root,
        &json!({
            "to be keyed": ["filenode", {"ro_uri": keyed.cap, "metadata": metadata}],
            "theirs keyed": ["filenode", {"ro_uri": theirs, "metadata": metadata_of_theirs}],
        }),
    );

    grid.rename(root, "literal", "literal renamed");
    let moved = expected.remove("literal").unwrap();
    expected.insert("literal renamed".into(), moved);
    grid.rename(root, "\u{fc} as given", "no longer as given");
    let moved = expected.remove("u\u{308} as given").unwrap();
    expected.insert("no longer as given".into(), moved);
    grid.relink(root, "several segments", &sub, "moved");
    let moved = expected.remove("several segments").unwrap();
    expected.insert("sub/moved".into(), moved);
    grid.delete(root, "sub/deeper/leaf");
    expected.remove("sub/deeper/leaf").unwrap();

    // What the reference made has no attributes of ours; what it replaced keeps the permissions and the owner.
    let after = stored(grid, root);
    let mounter = (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw());
    let fresh = |path: &str, mode: u32, size, digest: String| {
        let linked = after[path].linked();
        Seen { mode, uid: mounter.0, gid: mounter.1, size, mtime: linked, ctime: linked, digest }
    };
    expected.insert("made".into(), fresh("made", libc::S_IFDIR | 0o755, 4096, String::new()));
    for (path, content) in &contents {
        let mut now = fresh(path, libc::S_IFREG | 0o644, content.len() as u64, digest(content));
        if let Some(replaced) = expected.get(*path) {
            now.mode = libc::S_IFREG | replaced.mode & 0o7777;
            (now.uid, now.gid) = (replaced.uid, replaced.gid);
        }
        expected.insert((*path).into(), now);
    }
    let theirs = expected.get_mut("theirs keyed").unwrap();
    theirs.mtime = Timestamp::from_float(1234567890.25);
    theirs.ctime = theirs.mtime;
    expected
}

/// Changes, through the mount, what the reference has written, and some of what it has not.
fn change_by_mount(world: &World) {
    let append = |path: &str| {
        let mut file = fs::OpenOptions::new().append(true).open(world.at(path)).unwrap();
        file.write_all(b"appended").unwrap();
    };
    append("small");
    append("sub/added \u{fc}.bin");
    fs::write(world.at("link"), bytes(400, 200)).unwrap();
    fs::write(world.at("made/by the mount"), bytes(2_000_000, 201)).unwrap();
    fs::rename(world.at("made"), world.at("sub/taken over")).unwrap();
    fs::remove_file(world.at("added literal")).unwrap();
    fs::rename(world.at("sub/moved"), world.at("moved back")).unwrap();
    for (from, to) in [("to be keyed", "sub/ours keyed"), ("theirs keyed", "theirs renamed")] {
        fs::set_permissions(world.at(from), Permissions::from_mode(0o604)).unwrap();
        set_time(&world.at(from), 1_000_000_000, 1);
        fs::rename(world.at(from), world.at(to)).unwrap();
        assert_eq!(seen(&world.at(to)).mtime, Timestamp { secs: 1_000_000_000, nanos: 1 });
    }
}
