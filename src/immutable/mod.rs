//! Immutable files: uploads that stream, downloads that verify, and literals (PROTOCOL 5).

mod download;
mod literal;
mod upload;

pub use download::Reader;
pub use literal::LiteralReader;
pub use upload::{Timings, UploadOptions, UploadResults, Uploaded, Uploader};
