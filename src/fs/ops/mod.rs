//! The operations, one file for each family.

mod create;
mod io;
mod list;
mod lookup;
mod ranges;
mod remove;
mod rename;
mod setattr;
mod xattr;

pub use list::Listed;
pub use lookup::TARGET_MAX;
pub use ranges::{Allocation, Place, Seek};
pub use rename::RenameMode;
pub use xattr::{Reader, SetMode};
