//! What the codecs cost on their own.
fn main() {}
