//! Zeros that cost nothing, content that is another stored file's, and where there is data.

use std::io;
use std::ops::Range;

use super::{FileBody, Inner, Origin, Staged, lock, pairs};
use crate::journal::batch::Op;
use crate::journal::records::BaseBody;

/// Holes in what a file began as, at most: each record of the file names all of them.
const MOST_HOLES: usize = 1024;

impl Staged {
    /// Makes zeros of a range, as far as the file goes, or as it goes then if it is to grow to `size` bytes. They take no
    /// room. `false` if it would have too many holes then: nothing is done.
    pub async fn carve(&self, range: Range<u64>, size: Option<u64>) -> io::Result<bool> {
        if range.end.max(size.unwrap_or(0)) > i64::MAX as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(move |file| {
            file.begin();
            file.carve(range, size)
        })
        .await
    }

    /// Appends what `whole`, a file that has no record of its own, holds from where this one ends, up to `end`: if this
    /// one is the beginning of it so far, and nothing else. Returns the generation that this makes, where it was done.
    pub async fn continue_as(&self, whole: &Staged, end: u64) -> io::Result<Option<u64>> {
        let base = {
            let state = whole.0.state();
            state.base.clone().filter(|_| whole.0.id() == 0 && state.shows == state.size && end <= state.size)
        };
        let Some(base) = base else { return Ok(None) };
        self.change(move |file| {
            let body = {
                let state = file.state();
                let is_beginning = (state.size == 0 || state.base.as_ref().is_some_and(|own| own.cap == base.cap))
                    && (state.shows, state.written.len(), state.holes.len()) == (state.size, 0, 0);
                if file.in_place || !is_beginning || end <= state.size {
                    return Ok(None);
                }
                drop(state);
                file.begin();
                let over = base.spare.as_ref().and_then(|spare| spare.id());
                let base = Some(BaseBody { cap: base.cap.clone(), shows: end, over });
                FileBody { size: end, base, stored: None, ..file.body(&file.state()) }
            };
            file.shared.commit(vec![file.record(&body)])?;
            let mut state = file.state();
            (state.base, state.size, state.shows, state.stored) = (Some(base), end, end, None);
            state.generation += 1;
            Ok(Some(state.generation))
        })
        .await
    }

    /// Where the next data begins, at `offset` or after it; `None` if there is none before the end of the file.
    pub fn next_data(&self, offset: u64) -> Option<u64> {
        self.next(offset, |origin| origin != Origin::Zeros)
    }

    /// Where the next hole begins, at `offset` or after it; `None` if there is none before the end of the file.
    pub fn next_hole(&self, offset: u64) -> Option<u64> {
        self.next(offset, |origin| origin == Origin::Zeros)
    }

    fn next(&self, offset: u64, is_sought: impl Fn(Origin) -> bool) -> Option<u64> {
        let state = self.0.state();
        let pieces = state.pieces(offset..state.size.max(offset));
        pieces.into_iter().find(|(_, origin)| is_sought(*origin)).map(|(piece, _)| piece.start)
    }
}

impl Inner {
    /// The staging file keeps the bytes, which no record names any more.
    fn carve(&self, range: Range<u64>, size: Option<u64>) -> io::Result<bool> {
        let (size, parted, written, holes, staging) = {
            let state = self.state();
            let size = state.size.max(size.unwrap_or(0));
            let range = range.start.min(size)..range.end.min(size);
            // Beyond what shows of the base there is nothing to hide; a mutable one may be longer by the time it is written.
            let hidden = if self.in_place { range.clone() } else { range.start..range.end.min(state.shows) };
            let (mut written, mut holes) = (state.written.clone(), state.holes.clone());
            let parted = written.parted(range.clone());
            written.remove(range.clone());
            holes.insert(hidden);
            (size, parted, written, holes, state.staging.clone())
        };
        if holes.len() > MOST_HOLES {
            return Ok(false);
        }
        let is_emptied = staging.is_none() && written.len() == 0 && !parted.gone.is_empty();
        let (body, cut) = {
            let state = self.state();
            let cut = if size > state.size { Some(state.cut.map_or(size, |cut| cut.min(size))) } else { state.cut };
            let written = if staging.is_some() { Vec::new() } else { pairs(&written) };
            let body = FileBody {
                size,
                cut: cut.filter(|_| self.in_place),
                written,
                holes: pairs(&holes),
                stored: None,
                ..self.body(&state)
            };
            (body, cut)
        };
        let mut ops = vec![self.record(&body)];
        if staging.is_some() {
            ops.push(Op::DropExtents(self.id(), parted.gone));
            ops.extend(parted.left.into_iter().map(|left| Op::Extent(self.id(), Vec::new(), (left.start, left.end))));
        } else if is_emptied {
            ops.push(Op::Content(self.id(), None));
        }
        self.shared.commit(ops)?;
        if is_emptied {
            drop(lock(&self.shared.contents).take(self.id()));
        }
        let mut state = self.state();
        (state.size, state.cut, state.written, state.holes, state.stored) = (size, cut, written, holes, None);
        state.generation += 1;
        Ok(true)
    }
}
