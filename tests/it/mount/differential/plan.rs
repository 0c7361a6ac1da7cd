//! What is done next: mostly to what is there, and mostly what can be done.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{AtFlags, FallocateFlags, FileType, OFlags, RenameFlags, SeekFrom, Timespec, Timestamps};
use rustix::fs::{UTIME_NOW, UTIME_OMIT, XattrFlags};

use super::facts::paths;
use super::ops::{At, Data, Op, Side};
use crate::mount::dice::Dice;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f.txt"];
const XATTRS: [&str; 8] =
    ["user.a", "user.b", "user.long.er", "user.gr\u{fc}n", "user.", "trusted.t", "system.s", "nothing"];
const LENGTHS: [usize; 12] = [0, 1, 10, 54, 55, 56, 100, 4095, 4096, 5000, 70_000, 140_000];
const MODES: [u32; 10] = [0o644, 0o600, 0o755, 0o700, 0o4755, 0o2755, 0o2644, 0o6777, 0o1777, 0];
/// Devices that cannot be opened.
const NO_DRIVER: u32 = 4000;
const IDS: [u32; 3] = [0, 1000, 70_000];

pub struct Plan {
    pub dice: Dice,
    /// Whether who runs this may give files away.
    pub is_root: bool,
    directories: Vec<OsString>,
    others: Vec<OsString>,
    count: usize,
}

impl Plan {
    pub fn new(seed: u64) -> Plan {
        let is_root = nix::unistd::geteuid().is_root();
        Plan { dice: Dice::new(seed), is_root, directories: Vec::new(), others: Vec::new(), count: 0 }
    }

    fn name(&mut self) -> OsString {
        match self.dice.roll(40) {
            0 => OsString::from_vec(vec![0xff, b'x']),
            1 => if self.dice.once_in(2) { "e\u{301}" } else { "\u{e9}" }.into(),
            2 => "%41".into(),
            3 => "l".repeat(255).into(),
            4 if self.dice.once_in(4) => "l".repeat(256).into(),
            _ => self.dice.pick(&NAMES).expect("names").into(),
        }
    }

    fn below(&mut self, path: &OsString, name: OsString) -> OsString {
        let mut path = if path == "." { OsString::new() } else { path.clone() };
        if !path.is_empty() {
            path.push("/");
        }
        path.push(name);
        path
    }

    /// Something that is there, if there is anything.
    fn existing(&mut self) -> At {
        let any = if self.dice.once_in(3) { &self.directories } else { &self.others };
        let path = self.dice.pick(any).unwrap_or_else(|| ".".into());
        At { slot: None, path }
    }

    /// Something that may be there.
    fn place(&mut self, side: &Side) -> At {
        let open: Vec<usize> = (0..side.slots.len()).filter(|slot| side.slots[*slot].is_some()).collect();
        if self.dice.once_in(12)
            && let Some(slot) = self.dice.pick(&open)
        {
            return At { slot: Some(slot), path: self.name() };
        }
        match self.dice.roll(20) {
            0..9 => self.existing(),
            9..18 => {
                let (directory, name) = (self.dice.pick(&self.directories).expect("the root"), self.name());
                At { slot: None, path: self.below(&directory, name) }
            }
            18 => {
                let (above, name) = (self.existing().path, self.name());
                At { slot: None, path: self.below(&above, name) }
            }
            _ => {
                let mut path = self.existing().path;
                path.push(self.dice.pick(&["/", "/.", "//a"]).expect("endings"));
                At { slot: None, path }
            }
        }
    }

    fn new_place(&mut self, side: &Side) -> At {
        if self.dice.once_in(4) {
            return self.place(side);
        }
        let (directory, name) = (self.dice.pick(&self.directories).expect("the root"), self.name());
        At { slot: None, path: self.below(&directory, name) }
    }

    fn data(&mut self) -> Data {
        self.count += 1;
        Data { seed: self.count, length: self.length() }
    }

    fn length(&mut self) -> usize {
        self.dice.pick(&LENGTHS).expect("lengths")
    }

    fn offset(&mut self) -> u64 {
        match self.dice.roll(4) {
            0 => 0,
            1 => self.length() as u64,
            2 => self.dice.roll(200) as u64,
            _ => self.dice.roll(300_000) as u64,
        }
    }

    fn short(&mut self) -> Data {
        self.count += 1;
        Data { seed: self.count, length: self.dice.pick(&[0, 1, 20, 100, 200]).expect("lengths") }
    }

    /// What is made must be read when trees are compared.
    fn mode(&mut self) -> u32 {
        self.dice.pick(&MODES).expect("modes") | if self.is_root { 0 } else { 0o700 }
    }

    fn ids(&mut self) -> (Option<u32>, Option<u32>) {
        if !self.is_root {
            let own = [None, Some(nix::unistd::getegid().as_raw())];
            return (None, self.dice.pick(&own).expect("ids"));
        }
        let id = |dice: &mut Dice| if dice.once_in(3) { None } else { dice.pick(&IDS) };
        (id(&mut self.dice), id(&mut self.dice))
    }

    fn time(&mut self) -> Timespec {
        let (set, nanos) = (self.dice.roll(1_700_000_000) as i64 - 100_000_000, self.dice.roll(1_000_000_000));
        match self.dice.roll(8) {
            0 => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
            1 => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            2 => Timespec { tv_sec: 9_000_000_000, tv_nsec: nanos as _ },
            3 => Timespec { tv_sec: set, tv_nsec: 0 },
            _ => Timespec { tv_sec: set, tv_nsec: nanos as _ },
        }
    }

    fn times(&mut self) -> Timestamps {
        Timestamps { last_access: self.time(), last_modification: self.time() }
    }

    fn follow(&mut self) -> AtFlags {
        if self.dice.once_in(2) { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
    }

    fn open_flags(&mut self) -> OFlags {
        let access = [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR];
        let mut flags = self.dice.pick(&access).expect("flags");
        let often = [(OFlags::CREATE, 2), (OFlags::EXCL, 6), (OFlags::TRUNC, 5), (OFlags::APPEND, 4)];
        let seldom = [(OFlags::NOFOLLOW, 10), (OFlags::DIRECTORY, 15)];
        for (flag, n) in often.into_iter().chain(seldom) {
            if self.dice.once_in(n) {
                flags |= flag;
            }
        }
        // What exclusive creation means without creation is not defined.
        if !flags.contains(OFlags::CREATE) {
            flags.remove(OFlags::EXCL);
        }
        flags
    }

    /// The next operation; `local` is what both sides are to be.
    pub fn next(&mut self, local: &Side) -> Op {
        match self.dice.roll(200) {
            0..4 => return Op::Flush,
            4 | 5 => return Op::Compare,
            _ => {}
        }
        (self.directories, self.others) = paths(&local.root);
        let slots: Vec<usize> = (0..local.slots.len()).filter(|slot| local.slots[*slot].is_some()).collect();
        if let (0..45, Some(slot)) = (self.dice.roll(100), self.dice.pick(&slots)) {
            let other = self.dice.pick(&slots).expect("as above");
            return self.of_open(local, slot, other);
        }
        self.of_paths(local)
    }

    fn of_open(&mut self, local: &Side, slot: usize, other: usize) -> Op {
        let at = self.offset();
        match self.dice.roll(46) {
            // Where a directory ends is its file system's own matter, and pipes have no times on a mount.
            9..14 | 23..26 if local.position(slot).is_none() => Op::Fsync { slot },
            0..3 => Op::Close { slot },
            3..6 => Op::Read { slot, length: self.length() },
            6..9 => Op::Pread { slot, at, length: self.length() },
            9..14 => Op::Write { slot, data: self.data() },
            14..20 => Op::Pwrite { slot, at, data: self.data() },
            20..23 => Op::Map { slot, at, data: self.data() },
            23 => Op::Seek { slot, to: SeekFrom::Start(at) },
            24 => Op::Seek { slot, to: SeekFrom::Current(at as i64 - 10_000) },
            25 => Op::Seek { slot, to: SeekFrom::End(10 - self.dice.roll(50) as i64) },
            26 | 27 => Op::Holes { slot, at },
            28 => Op::Fsync { slot },
            29 => Op::Fdatasync { slot },
            30..34 => Op::Ftruncate { slot, size: at },
            34..38 => {
                let (punch, keep) = (FallocateFlags::PUNCH_HOLE, FallocateFlags::KEEP_SIZE);
                let zero = FallocateFlags::ZERO_RANGE;
                let modes = [FallocateFlags::empty(), keep, punch | keep, punch | keep, zero, zero | keep, punch];
                let mode = self.dice.pick(&modes).expect("modes");
                Op::Allocate { slot, mode, at, length: self.length() as u64 }
            }
            38..41 => {
                let to_at = if self.dice.once_in(2) { at } else { self.offset() };
                Op::Copy { from: slot, at, to: other, to_at, length: self.length() }
            }
            41 => Op::Fchmod { slot, mode: self.mode() },
            42 => {
                let (uid, gid) = self.ids();
                Op::Fchown { slot, uid, gid }
            }
            43 => Op::Futimens { slot, times: self.times() },
            44 => match self.xattr() {
                (name, flags, 0) => Op::FgetXattr { slot, name, room: flags.bits() as usize * 50 },
                (name, _, 1) => Op::FremoveXattr { slot, name },
                (name, flags, _) => Op::FsetXattr { slot, name, data: self.short(), flags },
            },
            _ => {
                let from = At { slot: Some(slot), path: "".into() };
                let (directory, name) = (self.dice.pick(&self.directories).expect("the root"), self.name());
                let to = At { slot: None, path: self.below(&directory, name) };
                Op::Link { from, to, flags: AtFlags::EMPTY_PATH }
            }
        }
    }

    fn xattr(&mut self) -> (&'static str, XattrFlags, usize) {
        let flags = [XattrFlags::empty(), XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
        let name = self.dice.pick(&XATTRS).expect("names");
        (name, self.dice.pick(&flags).expect("flags"), self.dice.roll(4))
    }

    fn of_paths(&mut self, side: &Side) -> Op {
        match self.dice.roll(72) {
            0..14 => {
                let (slot, mode) = (self.dice.roll(side.slots.len()), self.mode());
                Op::Open { slot, at: self.place(side), flags: self.open_flags(), mode }
            }
            14..26 => {
                let flags = if self.dice.once_in(4) { RenameFlags::NOREPLACE } else { RenameFlags::empty() };
                let from = if self.dice.once_in(6) { self.place(side) } else { self.existing() };
                Op::Rename { from, to: self.place(side), flags }
            }
            26..31 => {
                let flags = if self.dice.once_in(3) { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
                let from = if self.dice.once_in(6) { self.place(side) } else { self.existing() };
                Op::Link { from, to: self.new_place(side), flags }
            }
            31..36 => Op::Unlink { at: self.place(side), flags: AtFlags::empty() },
            36..39 => Op::Unlink { at: self.place(side), flags: AtFlags::REMOVEDIR },
            39..46 => Op::Mkdir { at: self.new_place(side), mode: self.mode() },
            46 => {
                let kinds = [FileType::Fifo, FileType::Socket, FileType::RegularFile, FileType::CharacterDevice];
                let kind = self.dice.pick(&kinds[..if self.is_root { 4 } else { 3 }]).expect("kinds");
                Op::Mknod { at: self.new_place(side), kind, mode: self.mode(), device: (NO_DRIVER, self.count as u32) }
            }
            47..50 => {
                let target = match self.dice.roll(6) {
                    0 => self.existing().path,
                    1 => self.name(),
                    2 => "long/".repeat(1 + self.dice.roll(800)).into(),
                    3 => "x".repeat(self.dice.pick(&[0, 54, 55, 56]).expect("lengths")).into(),
                    _ => self.dice.pick(&NAMES).expect("names").into(),
                };
                Op::Symlink { target, at: self.new_place(side) }
            }
            50 => Op::Readlink { at: self.place(side) },
            51..53 => Op::Stat { at: self.place(side), flags: self.follow() },
            53..56 => Op::Truncate { at: self.place(side), size: self.offset() },
            56..58 => Op::Chmod { at: self.place(side), mode: self.mode() },
            58..60 => {
                let (uid, gid) = self.ids();
                Op::Chown { at: self.place(side), uid, gid, flags: self.follow() }
            }
            60..63 => Op::Utimens { at: self.place(side), times: self.times(), flags: self.follow() },
            63..68 => {
                let at = self.place(side);
                match self.xattr() {
                    (name, flags, 0) => Op::GetXattr { at, name, room: flags.bits() as usize * 50 },
                    (name, _, 1) => Op::RemoveXattr { at, name },
                    (name, flags, _) => Op::SetXattr { at, name, data: self.short(), flags },
                }
            }
            68 => Op::ListXattr { at: self.place(side), room: self.dice.pick(&[0, 8, 1000]).expect("rooms") },
            _ => Op::List { at: self.place(side) },
        }
    }
}
