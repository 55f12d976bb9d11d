//! The SRT server.
//!
//! A caller's induction is answered without remembering it ([`cookie`]). A conclusion that brings the
//! cookie back begins a session, which is found by the caller's address and socket from then on
//! ([`table`]); the origin is asked with the caller's own packets ([`dialogue`]).

pub mod cookie;
pub mod dialogue;
pub mod table;
