//! Open files and directories.

use std::collections::HashMap;
use std::sync::Arc;

use super::attr::Ino;
use super::ops::Listed;
use crate::node::Readable;
use crate::writeback::FileObject;

/// Names an open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// It may be written through this handle.
    pub write: bool,
    /// Cut it to nothing first.
    pub truncate: bool,
}

/// What a handle is open on.
#[derive(Clone)]
pub(super) enum Open {
    File {
        ino: Ino,
        mode: OpenMode,
        stored: Option<Arc<dyn Readable>>,
        writer: Option<Arc<FileObject>>,
        /// How many failures to store the content it has been told of.
        heard: u64,
    },
    Directory {
        ino: Ino,
        entries: Option<Arc<Vec<Listed>>>,
    },
}

#[derive(Default)]
pub(super) struct Handles {
    open: HashMap<Handle, Open>,
    last: u64,
}

impl Handles {
    pub fn add(&mut self, open: Open) -> Handle {
        self.last += 1;
        let handle = Handle(self.last);
        self.open.insert(handle, open);
        handle
    }

    pub fn get(&self, handle: Handle) -> Option<&Open> {
        self.open.get(&handle)
    }

    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut Open> {
        self.open.get_mut(&handle)
    }

    pub fn remove(&mut self, handle: Handle) -> Option<Open> {
        self.open.remove(&handle)
    }
}
