//! A staging file: content in encrypted units, changed in place.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::extents::Extents;
use crate::crypto::Xts;

const UNIT: u64 = Xts::UNIT as u64;
/// Bytes that are encrypted at once.
const CHUNK: u64 = 256 << 10;

/// A staging file. Which of its bytes count is written elsewhere: what lies outside of them has no meaning.
pub(super) struct UnitFile {
    pub number: u64,
    file: File,
    xts: Xts,
    path: PathBuf,
    allocated: AtomicU64,
    /// A sync has failed.
    failed: AtomicBool,
}

impl UnitFile {
    /// A new file in `folder`.
    pub fn create(folder: &Path, number: u64, xts: Xts) -> io::Result<UnitFile> {
        let path = folder.join(number.to_string());
        let file = fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(UnitFile { number, file, xts, path, allocated: AtomicU64::new(0), failed: AtomicBool::new(false) })
    }

    /// One that is there.
    pub fn open(folder: &Path, number: u64, xts: Xts) -> io::Result<UnitFile> {
        let path = folder.join(number.to_string());
        let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
        let allocated = AtomicU64::new(allocated(&file)?);
        Ok(UnitFile { number, file, xts, path, allocated, failed: AtomicBool::new(false) })
    }

    /// Writes `data` at `offset`. `written` tells which bytes of the units at both ends must stay.
    pub fn write(&self, offset: u64, data: &[u8], written: &Extents) -> io::Result<()> {
        let end = offset + data.len() as u64;
        let mut at = offset;
        let mut buffer = Vec::new();
        while at < end {
            let units = at / UNIT * UNIT..((at / UNIT * UNIT) + CHUNK).min(end.next_multiple_of(UNIT));
            let stop = units.end.min(end);
            buffer.clear();
            buffer.resize((units.end - units.start) as usize, 0);
            for (edge, is_partial) in [(units.start, at > units.start), (units.end - UNIT, stop < units.end)] {
                let unit = edge..edge + UNIT;
                if is_partial && written.split(unit.clone()).iter().any(|(_, inside)| *inside) {
                    let from = (edge - units.start) as usize;
                    self.read_units(unit, &mut buffer[from..from + Xts::UNIT])?;
                }
            }
            let (from, to) = ((at - units.start) as usize, (stop - units.start) as usize);
            buffer[from..to].copy_from_slice(&data[(at - offset) as usize..(stop - offset) as usize]);
            self.xts.encrypt(&mut buffer, units.start / UNIT);
            self.file.write_all_at(&buffer, units.start)?;
            at = stop;
        }
        Ok(())
    }

    /// Reads bytes all of which were written.
    pub fn read(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        let units = range.start / UNIT * UNIT..range.end.next_multiple_of(UNIT);
        let mut buffer = vec![0; (units.end - units.start) as usize];
        self.read_units(units.clone(), &mut buffer)?;
        buffer.truncate((range.end - units.start) as usize);
        buffer.drain(..(range.start - units.start) as usize);
        Ok(buffer)
    }

    /// Reads whole units in which something was written. What was written is never a hole: one there is what power
    /// loss, or somebody's hand, made of it.
    fn read_units(&self, units: Range<u64>, buffer: &mut [u8]) -> io::Result<()> {
        let lost = || {
            let text = format!("{}: bytes near {} were written but are not there", self.path.display(), units.start);
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        self.file.read_exact_at(buffer, units.start).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => lost(),
            _ => e,
        })?;
        if buffer.chunks_exact(Xts::UNIT).any(|unit| unit.iter().all(|b| *b == 0)) {
            return Err(lost());
        }
        self.xts.decrypt(buffer, units.start / UNIT);
        Ok(())
    }

    /// What was written survives power loss once this returns; its name in the folder may not.
    ///
    /// A failure is for ever: the kernel forgets that the bytes were not written, and a second try would succeed.
    pub fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Acquire) {
            return Err(io::Error::other(format!("{}: what was written could not be synced", self.path.display())));
        }
        self.file.sync_data().inspect_err(|_| self.failed.store(true, Ordering::Release))
    }

    /// How many bytes of the disk it has taken since this was last asked.
    pub fn grown(&self) -> i64 {
        let now = allocated(&self.file).unwrap_or(0);
        now as i64 - self.allocated.swap(now, Ordering::Relaxed) as i64
    }
}

fn allocated(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_and_is_gone_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = UnitFile::create(folder.path(), 1, Xts::new(&[1; 32])).unwrap();
        let mut written = Extents::default();
        file.write(5000, &[7; 10_000], &written).unwrap();
        written.insert(5000..15_000);
        assert_eq!(file.read(5001..14_999).unwrap(), [7; 9998]);
        file.file.write_all_at(&[0; 4096], 8192).unwrap();
        assert_eq!(file.read(5000..8192).unwrap(), [7; 3192]);
        assert_eq!(file.read(8191..8193).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(file.write(9000, &[1; 10], &written).is_err());
        file.file.set_len(12_288).unwrap();
        assert_eq!(file.read(14_000..14_001).unwrap_err().kind(), io::ErrorKind::InvalidData);
        file.write(8192, &[1; 8192], &written).unwrap();
        assert_eq!(file.read(15_000 - 1..15_000).unwrap(), [1]);
    }
}
