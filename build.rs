//! Generates the messages and the service of `proto/mesh.proto`. Nothing needs to be installed:
//! protox is a compiler for protobuf in Rust.

use std::error::Error;

const PROTO: &str = "proto/mesh.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let descriptors = protox::compile([PROTO], ["proto"])?;
    // The transport is ours: it must know a refused connection from a silent one.
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
