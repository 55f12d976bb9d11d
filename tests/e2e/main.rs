//! Tests of the program end to end: real nodes, origins, encoders and players.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod browser;
mod chaos;
mod clients;
mod failover;
mod faithful;
mod http;
mod lifecycle;
mod media;
mod names;
mod placement;
mod refusal;
mod srt;
mod vanish;
mod webrtc {
    mod browser;
    mod peers;
}
