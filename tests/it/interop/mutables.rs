//! Mutable files of either format that both programs write, one after the other.

use std::sync::Arc;

use tahoefs::cap::{Cap, MutableFormat};
use tahoefs::client::{Client, ClientOptions};
use tahoefs::config::NodeDir;
use tahoefs::node::{BytesSource, Changes, NodeFactory, Source};

use super::{bytes, serve, world};
use crate::mount::world::World;
use crate::tahoe::Grid;

const SEGMENT: usize = 131_073;

/// Runs `work` with a client of the embedded grid.
fn with_client<T>(world: &World, work: impl AsyncFnOnce(&Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = NodeDir::at(world.node_directory());
        let client = Client::open(dir, ClientOptions::default()).await.unwrap();
        work(&client).await
    })
}

/// All shares of the file are there and verify, says the reference.
fn assert_whole(grid: &Grid, cap: &str, content: &[u8], what: &str) {
    assert!(grid.get(cap, "") == content, "{what}: the reference reads something else");
    let check = grid.check(cap, true);
    let results = &check["results"];
    assert_eq!(results["healthy"], true, "{what}: {check}");
    assert_eq!(results["count-shares-good"], 5, "{what}: {check}");
}

#[test]
fn mutable_files_are_written_by_both() {
    let world = world(3, 5);
    let sizes = [0, SEGMENT, 2 * SEGMENT + 9, 4 * SEGMENT];
    let mut ours: Vec<(String, Vec<u8>)> = with_client(&world, async |client| {
        let mut made = Vec::new();
        for (i, size) in sizes.into_iter().enumerate() {
            for format in [MutableFormat::Mdmf, MutableFormat::Sdmf] {
                let mut content = bytes(size, i);
                let cap = client.create_mutable(&client.cx(), None, format, content.clone().into()).await.unwrap();
                let file = client.writeable(&cap).unwrap();
                // Twice by the same object: where the reference leaves files that nobody can read.
                for step in 0..2 {
                    let more = bytes(SEGMENT / 2 + step, 50 + i);
                    file.update(&client.cx(), content.len() as u64, more.clone().into()).await.unwrap();
                    content.extend_from_slice(&more);
                    let patch = bytes(10, 60 + step);
                    content[..10].copy_from_slice(&patch);
                    file.update(&client.cx(), 0, patch.into()).await.unwrap();
                }
                made.push((cap.to_uri(), content));
            }
        }
        made
    });
    let mut grid = serve(&world, 3, 5);
    for (cap, content) in &ours {
        assert_whole(&grid, cap, content, "ours");
    }
    // The reference overwrites some of ours, and makes its own.
    for (i, (cap, content)) in ours.iter_mut().enumerate().filter(|(i, _)| i % 3 == 0) {
        *content = bytes(SEGMENT + 1 + i, 70);
        grid.put_at(cap, "", content);
    }
    for (i, size) in sizes.into_iter().enumerate() {
        for format in ["MDMF", "SDMF"] {
            let content = bytes(size, 80 + i);
            ours.push((grid.put(&content, format), content));
        }
    }
    grid.stop();
    with_client(&world, async |client| {
        for (i, (cap, content)) in ours.iter_mut().enumerate() {
            let file = client.writeable(&Cap::parse(cap).unwrap()).unwrap();
            let all = 0..content.len() as u64;
            assert!(file.read(&client.cx(), std::slice::from_ref(&all)).await.unwrap()[0] == content[..], "{i}");
            let base = file.file_version(&client.cx()).await.unwrap().unwrap();
            // An append, a range within and one at the end, in one version; then it is cut.
            let old = content.len();
            content.resize(old + SEGMENT, 0);
            let source = bytes(content.len(), 90 + i);
            let dirty = [old / 2..old / 2 + 5, old + 7..old + SEGMENT];
            for range in &dirty {
                content[range.clone()].copy_from_slice(&source[range.clone()]);
            }
            let source: Arc<dyn Source> = Arc::new(BytesSource(source.into()));
            let dirty = dirty.iter().map(|range| range.start as u64..range.end as u64).collect();
            let changes = Changes::new(source, dirty, Some(content.len() as u64));
            let version = file.write(&client.cx(), Some(&base), &changes).await.unwrap();
            if i % 2 == 0 {
                content.truncate(old + 9);
                let cut = Changes::resize(content.len() as u64);
                file.write(&client.cx(), Some(&version), &cut).await.unwrap();
            }
        }
    });
    let mut grid = serve(&world, 3, 5);
    for (i, (cap, content)) in ours.iter().enumerate() {
        assert_whole(&grid, cap, content, &format!("changed by us, {i}"));
    }
    grid.stop();
}
