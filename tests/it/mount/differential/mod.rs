//! The mount beside a directory of the local file system: random operations on both, which must answer the same and
//! leave the same, also after a remount without a cache.

mod facts;
mod ops;
mod plan;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, Timespec, Timestamps};

use self::facts::{Facts, Stamp, difference, forgotten, tree};
use self::ops::{Answer, At, Op, Side};
use self::plan::Plan;
use super::world::{World, said};

/// For how long seeds are tried, and the first of them.
const SECONDS: &str = "TAHOEFS_DIFFERENTIAL_SECONDS";
const SEED: &str = "TAHOEFS_DIFFERENTIAL_SEED";
/// Files that can be open at once.
const SLOTS: usize = 6;
/// Operations between remounts, and remounts of one seed.
const STEPS: usize = 300;
const ROUNDS: usize = 2;
/// How long operations are left out that are not needed for a difference.
const SHORTENING: Duration = Duration::from_secs(60);

struct Pair<'a> {
    world: &'a World,
    /// The mount, and what it is compared with.
    sides: [Side; 2],
    steps: usize,
    flush: Option<Child>,
}

impl<'a> Pair<'a> {
    fn new(world: &'a World, local: &Path) -> Pair<'a> {
        let sides = [&world.mountpoint(), local].map(|above| {
            let root = (0..).map(|n| above.join(format!("{n}"))).find(|root| fs::create_dir(root).is_ok());
            Side::new(root.unwrap(), SLOTS)
        });
        Pair { world, sides, steps: 0, flush: None }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Flush => {
                self.flushed()?;
                self.flush =
                    Some(self.world.command(&["flush"]).stderr(Stdio::piped()).spawn().expect("the binary runs"));
                return Ok(());
            }
            Op::Compare => return self.same_trees(),
            Op::Remount => return self.same_after_a_remount(),
            _ => {}
        }
        let mut places = op.places();
        places.extend(op.places().iter().map(At::above));
        // What was asked before is remembered by the kernel.
        self.steps += 1;
        let before = self.steps.is_multiple_of(2).then(|| self.stamps(&places));
        let [here, there] = self.sides.each_mut().map(|side| side.run(op));
        if here != there {
            return Err(format!("{op:?}: {here:?}, not {there:?}{}", first_difference(&here, &there)));
        }
        let changes_times = !is_empty(op);
        if let Some(before) = before.filter(|_| changes_times) {
            self.same_changes(&places, before)?;
        }
        if !changes_times {
            self.set_times(op);
        }
        self.same_facts(&places)
    }

    /// Stamps of paths and open files, on both sides.
    fn stamps(&self, places: &[At]) -> [Vec<Option<Stamp>>; 2] {
        self.sides.each_ref().map(|side| {
            let named = places.iter().map(|at| side.stat(at, AtFlags::SYMLINK_NOFOLLOW).ok());
            let open = (0..SLOTS).map(|slot| side.fstat(slot));
            named.chain(open).map(|stat| Some(Stamp::of(&stat?))).collect()
        })
    }

    /// Whose times are others there has others here.
    fn same_changes(&self, places: &[At], before: [Vec<Option<Stamp>>; 2]) -> Result<(), String> {
        let after = self.stamps(places);
        for i in 0..before[0].len() {
            let moved = |side: usize| {
                let (was, is) = (before[side][i]?, after[side][i]?);
                (was.ino == is.ino).then_some((was.mtime != is.mtime, was.ctime != is.ctime))
            };
            let (Some(here), Some(there)) = (moved(0), moved(1)) else { continue };
            if (there.0 && !here.0) || (there.1 && !here.1) {
                let what = places.get(i).map_or_else(|| format!("#{}", i - places.len()), |at| format!("{at:?}"));
                return Err(format!("{what}: (mtime, ctime) changed: {here:?}, not {there:?}"));
            }
        }
        Ok(())
    }

    fn same_facts(&self, places: &[At]) -> Result<(), String> {
        let [here, there] = &self.sides;
        for at in places {
            let stat = |side: &Side| side.stat(at, AtFlags::SYMLINK_NOFOLLOW).map(|stat| Facts::of(&stat));
            match (stat(here), stat(there)) {
                (Ok(here), Ok(there)) if here.agrees(&there) => {}
                (Err(here), Err(there)) if here == there => {}
                (here, there) => return Err(format!("{at:?}: {here:?}, not {there:?}")),
            }
        }
        for slot in 0..SLOTS {
            let [here, there] =
                [here, there].map(|side| (side.fstat(slot).map(|stat| Facts::of(&stat)), side.position(slot)));
            let is_same = match (&here.0, &there.0) {
                (Some(here), Some(there)) => here.agrees(there),
                (here, there) => here == there,
            };
            if !is_same || here.1 != there.1 {
                return Err(format!("#{slot}: {here:?}, not {there:?}"));
            }
        }
        Ok(())
    }

    /// What a local disk takes for a change and the mount does not.
    fn set_times(&mut self, op: &Op) {
        let Op::Allocate { slot, .. } = op else { return };
        let at = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: at, last_modification: at };
        for side in &mut self.sides {
            let _ = side.run(&Op::Futimens { slot: *slot, times: times.clone() });
        }
    }

    fn flushed(&mut self) -> Result<(), String> {
        let Some(flush) = self.flush.take() else { return Ok(()) };
        let output = flush.wait_with_output().expect("flush ends");
        if output.status.success() { Ok(()) } else { Err(said(&output)) }
    }

    fn same_trees(&self) -> Result<(), String> {
        let [here, there] = self.sides.each_ref().map(|side| tree(&side.root));
        difference(&here, &there).map_or(Ok(()), Err)
    }

    fn same_after_a_remount(&mut self) -> Result<(), String> {
        self.flushed()?;
        self.sides.iter_mut().for_each(Side::close);
        let before = tree(&self.sides[0].root);
        self.world.remount_cold(&options());
        let [here, there] = self.sides.each_ref().map(|side| tree(&side.root));
        if let Some(what) = difference(&here, &there).or_else(|| forgotten(&before, &here)) {
            return Err(format!("after a remount: {what}"));
        }
        self.sides.iter_mut().for_each(Side::open);
        Ok(())
    }
}

impl Drop for Pair<'_> {
    fn drop(&mut self) {
        if let Some(mut flush) = self.flush.take() {
            let _ = flush.wait();
        }
    }
}

/// With what a local disk has too.
fn options() -> Vec<&'static str> {
    if nix::unistd::geteuid().is_root() { vec!["-o", "dev,suid"] } else { Vec::new() }
}

fn first_difference<E>(here: &Result<Answer, E>, there: &Result<Answer, E>) -> String {
    let (Ok(Answer::Bytes(here)), Ok(Answer::Bytes(there))) = (here, there) else { return String::new() };
    format!(", first at {:?}", here.iter().zip(there).position(|(a, b)| a != b))
}

/// Whether it is an allocation that changes no byte and no size: on a local disk that is a change all the same.
fn is_empty(op: &Op) -> bool {
    matches!(op, Op::Allocate { mode, .. } if !mode.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE))
}

/// Does random things; returns what was done, and what was different.
fn try_seed(world: &World, local: &Path, seed: u64) -> Result<(), (Vec<Op>, String)> {
    let (mut pair, mut plan, mut done) = (Pair::new(world, local), Plan::new(seed), Vec::new());
    for _ in 0..ROUNDS {
        for step in 0..=STEPS {
            let op = if step == STEPS { Op::Remount } else { plan.next(&pair.sides[1]) };
            done.push(op.clone());
            if let Err(what) = pair.step(&op) {
                return Err((done, what));
            }
        }
    }
    pair.sides.iter_mut().for_each(Side::close);
    for side in &pair.sides {
        fs::remove_dir_all(&side.root).unwrap();
    }
    Ok(())
}

/// Leaves out what is not needed for a difference.
fn shorter(world: &World, local: &Path, (mut ops, mut what): (Vec<Op>, String)) -> (Vec<Op>, String) {
    let until = Instant::now() + SHORTENING;
    let mut length = ops.len() / 2;
    while length > 0 {
        let mut end = ops.len();
        while end > 0 && Instant::now() < until {
            let begin = end.saturating_sub(length);
            let fewer = [&ops[..begin], &ops[end..]].concat();
            let mut pair = Pair::new(world, local);
            let differs = fewer.iter().enumerate().find_map(|(n, op)| pair.step(op).err().map(|what| (n, what)));
            if let Some((n, less)) = differs {
                ops = fewer[..=n].to_vec();
                what = less;
            }
            end = begin.min(ops.len());
        }
        length /= 2;
    }
    (ops, what)
}

#[test]
fn random_operations_do_what_they_do_on_a_local_disk() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (first, seconds) = (number(SEED).unwrap_or(1), number(SECONDS));
    let world = World::new();
    world.mount(&options());
    let local = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    for seed in first.. {
        let goes_on = match seconds {
            Some(seconds) => begun.elapsed() < Duration::from_secs(seconds),
            None => seed < first + 3,
        };
        if !goes_on {
            break;
        }
        if let Err(difference) = try_seed(&world, local.path(), seed) {
            let (ops, what) = shorter(&world, local.path(), difference);
            let ops: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
            panic!("{SEED}={seed}: {what}\nafter these operations, of which the last is it:\n{}", ops.join("\n"));
        }
    }
}
