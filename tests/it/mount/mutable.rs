//! Files behind mutable caps, through the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use tahoefs::cap::Cap;
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::NodeDir;

use super::world::{World, tool};

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 131 + i / 251) as u8).collect()
}

/// A mount that shows `f`, a mutable file.
fn with_file(format: &str, content: &[u8]) -> World {
    let world = World::mounted();
    world.unmount();
    let source = world.home().join("source");
    fs::write(&source, content).unwrap();
    world.ok(&["put".as_ref(), "--format".as_ref(), format.as_ref(), source.as_os_str(), "tahoe:f".as_ref()]);
    world.mount(&["-o", "durability=grid"]);
    world
}

/// What a directory says of a file, as another client sees it.
fn listed(world: &World, name: &str) -> serde_json::Value {
    let listing = world.ok(&["ls", "--json", &format!("tahoe:{name}")]);
    serde_json::from_str::<serde_json::Value>(&listing).unwrap()["entries"][0].clone()
}

fn stored(world: &World) -> Vec<u8> {
    let copy = world.home().join("copy");
    world.ok(&["get".as_ref(), "tahoe:f".as_ref(), copy.as_os_str()]);
    fs::read(copy).unwrap()
}

fn changed_in_place(format: &str) {
    let mut expected = bytes(400_000);
    let world = with_file(format, &expected);
    let path = world.at("f");
    assert!(fs::read(&path).unwrap() == expected);
    let check = |expected: &[u8], what: &str| {
        assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64, "{what}");
        assert!(fs::read(&path).unwrap() == expected, "{what}");
        assert!(stored(&world) == expected, "{what}, stored");
        let row = listed(&world, "f");
        assert_eq!((&row["format"], &row["mutable"]), (&format.into(), &true.into()), "{what}");
    };

    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"in the middle", 200_000).unwrap();
    expected[200_000..200_013].copy_from_slice(b"in the middle");
    file.sync_all().unwrap();
    check(&expected, "written and synced");
    file.write_all_at(b"after a hole", 500_000).unwrap();
    expected.resize(500_000, 0);
    expected.extend(b"after a hole");
    drop(file);
    check(&expected, "sparse");

    for n in 0..3 {
        let line = format!("line {n}\n");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(line.as_bytes()).unwrap();
        expected.extend(line.as_bytes());
    }
    check(&expected, "appended");

    let script = "import mmap,sys\nf=open(sys.argv[1],'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[50000:50005]=b'hello'\nm.flush()\nm.close()\nf.close()";
    tool("python3", &["-c".as_ref(), script.as_ref(), path.as_os_str()]);
    expected[50_000..50_005].copy_from_slice(b"hello");
    world.unmount();
    world.mount(&["-o", "durability=grid"]);
    check(&expected, "mapped");

    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(131_073).unwrap();
    file.set_len(131_100).unwrap();
    drop(file);
    expected.truncate(131_073);
    expected.resize(131_100, 0);
    check(&expected, "cut and grown");

    fs::write(&path, b"anew").unwrap();
    check(b"anew", "cut to nothing and written");
    let mtime = fs::metadata(&path).unwrap();
    world.unmount();
    world.mount(&["-o", "durability=grid"]);
    check(b"anew", "after a remount");
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.mtime(), after.mtime_nsec()), (mtime.mtime(), mtime.mtime_nsec()));
}

#[test]
fn a_file_behind_an_sdmf_cap_is_changed_in_place() {
    changed_in_place("SDMF");
}

#[test]
fn a_file_behind_an_mdmf_cap_is_changed_in_place() {
    changed_in_place("MDMF");
}

/// What the root directory says of a name, to a client of its own.
fn cap_of(world: &World, name: &str) -> Cap {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::open(NodeDir::at(world.node_directory()), ClientOptions::default()).await.unwrap();
        let root = Cap::parse(client.aliases().unwrap().get("tahoe").unwrap()).unwrap();
        client.resolve(&client.cx(), &root, &[name.into()]).await.unwrap().cap
    })
}

#[test]
fn the_cap_stays_though_the_name_goes() {
    let world = with_file("SDMF", b"first");
    let cap = cap_of(&world, "f");
    fs::write(world.home().join("cap"), cap.to_uri()).unwrap();
    let mut file = OpenOptions::new().read(true).write(true).open(world.at("f")).unwrap();
    file.write_all(b"FI").unwrap();
    file.sync_all().unwrap();
    assert_eq!(cap_of(&world, "f"), cap);
    assert_eq!(world.ok(&["get", "--cap-file", "cap"]), "FIrst");
    // Without a name it is written all the same.
    fs::remove_file(world.at("f")).unwrap();
    file.seek(SeekFrom::End(0)).unwrap();
    file.write_all(b" and last").unwrap();
    let mut all = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut all).unwrap();
    assert_eq!(all, "FIrst and last");
    drop(file);
    assert_eq!(world.ok(&["get", "--cap-file", "cap"]), "FIrst and last");
    assert!(File::open(world.at("f")).is_err());
}
