//! What relaying RTMP, HTTP, WebRTC and SRT streams costs: this proxy, HAProxy or nginx and a bare byte
//! relay, one after the other in front of the same origin, under the same load.
//!
//! ```text
//! cargo run --release -p srs-proxy-tools --bin lab -- --rounds 3
//! ```
//!
//! Everything runs on loopback, on free ports. The load is made in this process, whose own CPU time
//! does not count; that of the relaying process does. On a machine that does other things as well,
//! trust the ratios, which are taken within a round, and only over several rounds.
//!
//! nginx with its RTMP module and HAProxy must be installed (Debian: `libnginx-mod-rtmp`,
//! `haproxy`). How much an origin writes at once decides what a relay costs: nginx writes each
//! message alone, so each costs a read and a write; SRS puts some hundred milliseconds together.
//! Give an SRS with `--origin` to see the other case; for "latency" it needs `min_latency on` and
//! `tcp_nodelay on`.
//!
//! "flv" has an origin of its own that sends as SRS does: one chunk of HTTP for all that came in 350 ms.
//! `--http-origin` names an SRS to use instead; the stream is then published to `--origin`. "segments"
//! has wrk (Debian: `wrk`) fetch HLS from nginx through a relay that has one core for itself, while wrk
//! and nginx share another.
//!
//! "webrtc" and "srt" measure the proxy beside nginx's stream module (Debian: `libnginx-mod-stream`) as a
//! plain relay of UDP. Their origin sends as SRS does, a datagram for each packet of each player; players
//! receive one by one. What a relay hands to the kernel in one piece (GSO) is therefore cut on the relay's
//! own account, as it is where no network card does it.

mod bare;
mod client;
mod datagrams;
mod findings;
mod flv;
mod latency;
mod load;
mod machine;
mod media;
mod options;
mod origins;
mod process;
mod relays;
mod report;
mod run;
mod segments;
mod stats;

use std::process::ExitCode;

use options::Options;
use srs_proxy_tools::{Result, udp};

/// The hidden subcommand that makes this program the bare relay.
const BARE_RELAY: &str = "bare-relay";
/// The one that makes it an origin of HTTP-FLV.
const FLV_ORIGIN: &str = "flv-origin";
/// The one that makes it an origin of WebRTC or SRT.
const UDP_ORIGIN: &str = "udp-origin";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let outcome = match args.get(1).map(String::as_str) {
        Some(BARE_RELAY) => bare::run(&args[2..]),
        Some(FLV_ORIGIN) => flv::run_origin(&args[2..]),
        Some(UDP_ORIGIN) => datagrams::run_origin(&args[2..]),
        _ => bench(&Options::parse(&args)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(options: &Options) -> Result<()> {
    // Two sockets for every player in a relay, and the origin's; children inherit the limit.
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let complete = runtime.block_on(async {
        tokio::select! {
            outcome = run::run(options) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        }
    })?;
    if complete { Ok(()) } else { Err("not everything could be measured, see above".into()) }
}
