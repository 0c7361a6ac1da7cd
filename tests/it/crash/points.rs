//! Every crash point of the engine, in a real mount: what was answered is there, and nothing else.

use std::os::unix::process::ExitStatusExt;

use tahoefs::writeback::CRASH_POINTS;

use super::steps::{STEPS, agrees};
use super::*;

/// A node with a mutable file under a name.
fn with_mutable_file() -> World {
    let world = World::mounted();
    world.unmount();
    let source = world.home().join("source");
    fs::write(&source, bytes(1, 500)).unwrap();
    world.ok(&["put".as_ref(), "--format=SDMF".as_ref(), source.as_os_str(), "tahoe:mutable".as_ref()]);
    world
}

/// Dies at a point; says whether it was there at all.
fn dies_at(point: &str, visit: u32) -> bool {
    let world = with_mutable_file();
    let mut daemon = Daemon::start(&world, &[], Some(&format!("{point}:{visit}")));
    let mut answered = tree(&world.mountpoint());
    let mut under_way = None;
    for step in STEPS {
        match step.take(&world) {
            Ok(()) => step.model(&mut answered),
            Err(_) => {
                under_way = Some(*step);
                break;
            }
        }
    }
    let status = daemon.end(&world);
    let died = status.signal() == Some(libc::SIGABRT);
    assert!(died || status.success() && under_way.is_none(), "{point}: {status}, {under_way:?}\n{}", log_of(&world));
    clear(&world);

    world.mount(&[]);
    let found = tree(&world.mountpoint());
    agrees(&found, &answered, under_way).unwrap_or_else(|why| panic!("{point}:{visit}: {why}"));
    world.unmount();
    mount_without_journal(&world);
    let published = tree(&world.mountpoint());
    agrees(&published, &found, None).unwrap_or_else(|why| panic!("{point}:{visit}, on the grid: {why}"));
    assert_drained(&world);
    world.unmount();
    died
}

/// The points whose number is `part` modulo 3.
fn visit(part: usize) {
    for (_, point) in CRASH_POINTS.iter().enumerate().filter(|(i, _)| i % 3 == part) {
        assert!(dies_at(point, 1), "{point} was not visited");
        dies_at(point, 3);
    }
}

#[test]
fn each_point_of_the_engine_leaves_what_was_answered_1() {
    visit(0);
}

#[test]
fn each_point_of_the_engine_leaves_what_was_answered_2() {
    visit(1);
}

#[test]
fn each_point_of_the_engine_leaves_what_was_answered_3() {
    visit(2);
}

#[test]
fn a_write_that_dies_in_the_journal_leaves_what_was_answered() {
    for (point, visit) in [("journal.commit.begun", 12), ("journal.commit.done", 25), ("journal.spill.switched", 1)] {
        assert!(dies_at(point, visit), "{point} was not visited {visit} times");
    }
}
