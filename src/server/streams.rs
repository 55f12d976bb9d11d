//! Streams over HTTP, and files beside them.

pub mod static_files;
pub mod target;
