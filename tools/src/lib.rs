//! What the drills and the load lab share: peers that speak WebRTC and SRT, and where the program
//! under test is.

// These are programs for people at a terminal: what goes wrong is told to them and ends the run.
#![allow(missing_docs)]

pub mod udp;

use std::{env, error::Error, path::PathBuf};

use clap::Arg;

/// An error here ends a drill or a measurement, with a message for the person who started it.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The option `--proxy-bin`: the program under test, by default the release build in the target
/// directory of this program.
pub fn proxy_bin() -> Arg {
    let target = env::current_exe().ok().and_then(|own| own.ancestors().nth(2).map(PathBuf::from)).unwrap_or_default();
    Arg::new("proxy-bin")
        .long("proxy-bin")
        .value_name("FILE")
        .value_parser(|path: &str| {
            let path = PathBuf::from(path);
            if path.is_file() {
                Ok(path)
            } else {
                Err("there is no such program; build it with `cargo build --release`")
            }
        })
        .default_value(target.join("release").join("srs-proxy").into_os_string())
        .hide_default_value(true)
        .help("The proxy [default: the release build]")
}
