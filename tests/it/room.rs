//! Uploads to the reference's own servers: what is there is found, and no room stays taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tahoefs::cap::StorageIndex;
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::NodeDir;
use tahoefs::immutable::{Uploaded, Uploader};

use crate::tahoe::{Grid, GridSpec, fresh};
use crate::testgrid::{chk, cx, source};
use crate::vectors::data;

const SERVERS: usize = 5;

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] }).collect()
}

fn shares_dir(grid: &Grid, server: usize) -> PathBuf {
    grid.server_dir(server).join("storage/shares")
}

/// The shares of a file: their numbers, servers and places.
fn shares(grid: &Grid, si: StorageIndex) -> BTreeMap<u32, (usize, PathBuf)> {
    let si = si.to_string();
    let of = |server| files(&shares_dir(grid, server).join(&si[..2]).join(&si)).into_iter().map(move |p| (server, p));
    let number = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse().unwrap();
    (0..SERVERS).flat_map(of).map(|(server, path)| (number(&path), (server, path))).collect()
}

/// Waits until no server keeps room for a share that is not there.
fn no_room_is_taken(grid: &Grid) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let left = || (0..SERVERS).flat_map(|s| files(&shares_dir(grid, s).join("incoming"))).collect::<Vec<_>>();
    while !left().is_empty() {
        assert!(Instant::now() < deadline, "{:?}", left());
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn figures(uploaded: &Uploaded) -> (usize, usize, usize) {
    (uploaded.results.pushed_shares, uploaded.results.preexisting_shares, uploaded.results.happiness)
}

#[tokio::test(flavor = "multi_thread")]
async fn real_servers_say_what_they_hold_and_keep_no_room() {
    let mut grid = Grid::start(GridSpec { servers: fresh(SERVERS), needed: 3, happy: 4, total: 10 });
    let options = ClientOptions { keep_asking: true, ..ClientOptions::default() };
    let client = Client::open(NodeDir::at(grid.client_dir()), options).await.unwrap();
    let uploader = Uploader::new(Arc::clone(client.grid()));
    let contents = ["one", "two", "three", "four"].map(|name| data(name, 10_000));

    let first = uploader.upload(&cx(), source(&contents[0])).await.unwrap();
    assert_eq!(figures(&first), (10, 0, 5));
    let cap = chk(&first.cap);
    let again = uploader.upload(&cx(), source(&contents[0])).await.unwrap();
    assert_eq!(figures(&again), (0, 10, 5));
    assert_eq!(again.results.share_map, first.results.share_map);

    // One share is left, at a server that would be asked for others.
    let si = cap.storage_index();
    for (number, (server, path)) in shares(&grid, si) {
        if number == 7 {
            let elsewhere = shares_dir(&grid, (server + 1) % SERVERS).join(&si.to_string()[..2]).join(si.to_string());
            fs::create_dir_all(&elsewhere).unwrap();
            fs::copy(&path, elsewhere.join("7")).unwrap();
        }
        fs::remove_file(path).unwrap();
    }
    let repaired = uploader.upload(&cx(), source(&contents[0])).await.unwrap();
    assert_eq!(figures(&repaired), (9, 1, 5));
    assert_eq!(shares(&grid, si).len(), 10);
    assert_eq!(grid.check(&first.cap.to_uri(), true)["results"]["healthy"], true);
    assert_eq!(first.cap.to_uri(), grid.put(&contents[0], "CHK"));
    no_room_is_taken(&grid);

    // A server hangs, and is there again; another one becomes full.
    grid.freeze_server(0);
    let without = uploader.upload(&cx(), source(&contents[1])).await.unwrap();
    assert_eq!(figures(&without), (10, 0, 4));
    grid.thaw_server(0);
    no_room_is_taken(&grid);
    let with = uploader.upload(&cx(), source(&contents[2])).await.unwrap();
    assert_eq!(with.results.pushed_shares, 10);
    grid.fill_server(1);
    let full = uploader.upload(&cx(), source(&contents[3])).await.unwrap();
    assert_eq!(figures(&full), (10, 0, 4));
    no_room_is_taken(&grid);
}
