//! Tests of the library: listeners, sessions and APIs in one process, with scripted peers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod balancer_memory;
mod cluster_status;
mod config;
mod docs;
mod exporter;
mod http_api {
    mod access;
    mod answers;
}
mod http_server;
mod lifecycle;
mod metrics;
mod openapi;
mod rtmp {
    mod failures;
    mod relay;
}
mod srt;
mod static_files;
mod streams {
    mod pieces;
    mod relay;
    mod requests;
}
mod system {
    mod api;
    mod cluster;
    mod lifecycle;
    mod log;
    mod views;
}
mod webrtc {
    mod peers;
    mod signalling;
}
