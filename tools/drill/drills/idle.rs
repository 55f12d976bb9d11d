//! Five nodes with ten thousand placements each, and nothing happens: what does it cost?

use std::{fs, time::Duration};

use tokio::time::{Instant, sleep};

use super::held;
use crate::{
    Result,
    fleet::{Fleet, Kind, Place},
    options::Options,
    report::Report,
    support::netns::Network,
};

const NODES: usize = 5;
/// After the last placement was made, until its news are old.
const CALM: Duration = Duration::from_secs(15);
const WINDOW: Duration = Duration::from_secs(30);
/// What `/proc/PID/stat` counts in. The same on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);
/// Of all placements, one in so many is in use, or as many as this process can use.
const IN_USE: usize = 5;
const NAME: &str = "idle";

pub async fn run(options: &Options, network: &Network, report: &mut Report) -> Result<()> {
    let mut fleet = Fleet::new(options.proxy.clone(), Kind::Mesh, &[("PROXY_PLACEMENT_HOLD", "1h")])?;
    for n in 0..NODES {
        fleet.add(Place::inside(&network.add(n as u8 + 10)), &[]);
    }
    fleet.start_all().await?;
    fleet.add_origins(4, network.hub().edge()).await?;
    let nodes: Vec<_> = (0..NODES).map(|n| fleet.rtmp(n)).collect();
    let all = options.placements * NODES;
    held::placements(&nodes, NAME, all).await?;
    for n in 0..NODES {
        fleet.wait_for_placements(n, all).await?;
    }
    measure(&fleet, &format!("{all} placements, no sessions"), report).await?;

    let held = held::sessions(&nodes, NAME, (all / IN_USE).min(held::capacity())).await?;
    measure(&fleet, &format!("{all} placements, {} of them in use by a silent publisher", held.len()), report).await
}

/// Watches the nodes for a while.
async fn measure(fleet: &Fleet, what: &str, report: &mut Report) -> Result<()> {
    sleep(CALM).await;
    let before = (0..NODES).map(|n| Usage::of(fleet, n)).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    sleep(WINDOW).await;
    let window = started.elapsed().as_secs_f64();
    let after = (0..NODES).map(|n| Usage::of(fleet, n)).collect::<Result<Vec<_>>>()?;
    let used: Vec<_> = before.iter().zip(&after).map(|(before, after)| after.since(before, window)).collect();
    let most = used.iter().map(|used| used.core).fold(0.0, f64::max);
    let mean = used.iter().map(|used| used.core).sum::<f64>() / NODES as f64;
    report.good(
        format!("{what}: CPU of a node over {window:.0} s, mean and most"),
        format!("{:.2} % and {:.2} % of a core", mean * 100.0, most * 100.0),
        "≤ 2 %",
        most <= 0.02,
    );
    let sent = used.iter().map(|used| used.sent).fold(0.0, f64::max);
    let packets = used.iter().map(|used| used.packets).fold(0.0, f64::max);
    report.state(
        format!("{what}: gossip and RPC that a node sends, at most"),
        format!("{:.1} kB/s in {packets:.0} packets/s", sent / 1000.0),
    );
    Ok(())
}

/// What a node has used so far.
struct Usage {
    cpu: Duration,
    sent: u64,
    packets: u64,
}

/// What it used in a time.
struct Rate {
    /// Of one core.
    core: f64,
    /// Bytes each second, the headers of all layers included.
    sent: f64,
    /// Each second.
    packets: f64,
}

impl Usage {
    fn of(fleet: &Fleet, n: usize) -> Result<Self> {
        let process = fleet.nodes[n].process.as_ref().ok_or("the node does not run")?;
        let proc = format!("/proc/{}", process.id());
        let stat = fs::read_to_string(format!("{proc}/stat"))?;
        // The command's name may hold spaces; utime and stime are the 12th and 13th field behind it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u32 = fields.skip(11).take(2).map(str::parse::<u32>).sum::<Result<_, _>>()?;
        // Only nodes talk on this interface.
        let devices = fs::read_to_string(format!("{proc}/net/dev"))?;
        let mesh = devices.lines().find_map(|line| line.trim().strip_prefix("mesh:")).ok_or("no interface")?;
        let counters: Vec<u64> = mesh.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let counter = |n: usize| counters.get(n).copied().ok_or("no counter");
        Ok(Self { cpu: TICK * ticks, sent: counter(8)?, packets: counter(9)? })
    }

    fn since(&self, before: &Self, seconds: f64) -> Rate {
        Rate {
            core: self.cpu.saturating_sub(before.cpu).as_secs_f64() / seconds,
            sent: (self.sent - before.sent) as f64 / seconds,
            packets: (self.packets - before.packets) as f64 / seconds,
        }
    }
}
