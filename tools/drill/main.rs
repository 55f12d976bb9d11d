//! Drills for a cluster: real node processes, origins and clients, on which happens what happens in
//! production. Each drill prints its figures beside what they must be; the exit code is 1 if one
//! of them was not merely slow, but wrong.
//!
//! ```text
//! cargo run --release -p srs-proxy-tools --bin drill -- --drill first-try race
//! ```
//!
//! Everything runs on loopback with free ports, or in network namespaces of its own, which need root
//! and Debian's `iproute2` (and `dnsmasq-base` for "statefulset"); "race" wants `redis-server` as
//! well. What is missing is skipped with a word. Origins and clients live in this process, and share
//! the machine's cores with the nodes: times are upper bounds.

mod api;
mod client;
mod drills;
mod edge;
mod fleet;
mod links;
mod options;
mod origin;
mod peer;
mod report;

use std::{process::ExitCode, thread};

use options::{Drill, Options};
use report::Report;
use rlimit::Resource;
use srs_proxy_test_support as support;
use srs_proxy_tools::{Result, udp};
use support::netns::{self, Network};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

/// Sockets for ten thousand clients and as many sessions of origins, with room to spare.
const OPEN_FILES: u64 = 200_000;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let options = Options::parse(&args);
    // Only root may raise the hard limit; children inherit both.
    if rlimit::setrlimit(Resource::NOFILE, OPEN_FILES, OPEN_FILES).is_err() {
        let _ = rlimit::increase_nofile_limit(OPEN_FILES);
    }
    let mut report = Report::default();
    for drill in &options.drills {
        report.begin(drill.name());
        if let Err(error) = run(*drill, &options, &mut report) {
            report.right("broken off", error, "", false);
        }
    }
    println!("{report}");
    if report.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one drill on a thread of its own, which is the parent of all its processes: the system ends
/// them with it.
fn run(drill: Drill, options: &Options, report: &mut Report) -> Result<()> {
    let network = match netns::unavailable() {
        _ if !drill.needs_network() => None,
        None => Some(Network::new()),
        Some(reason) => {
            report.state("skipped", reason);
            return Ok(());
        }
    };
    let outcome = thread::scope(|scope| {
        let network = network.as_ref();
        let drilled = scope.spawn(move || {
            let mut builder = Builder::new_multi_thread();
            if let Some(network) = network {
                network.enter();
                let hub = network.hub();
                builder.on_thread_start(move || netns::enter(&hub));
            }
            builder.enable_all().build()?.block_on(async {
                let mut terminated = signal(SignalKind::terminate())?;
                tokio::select! {
                    outcome = drills::run(drill, options, network, report) => outcome,
                    _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
                    _ = terminated.recv() => Err("terminated".into()),
                }
            })
        });
        drilled.join()
    });
    outcome.unwrap_or_else(|_| Err("the drill could not go on, see above".into()))
}
