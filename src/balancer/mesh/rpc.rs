//! Questions between nodes over gRPC, and the encoding of what nodes post.

pub mod wire;

/// Generated from `proto/mesh.proto`, where everything is documented.
#[allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]
mod proto {
    tonic::include_proto!("srs_proxy.mesh.v1");
}
