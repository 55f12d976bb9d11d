//! A node joins others of which each holds ten thousand placements.

use super::held;
use crate::{
    Result,
    fleet::{Fleet, Kind, Place},
    options::Options,
    report::{Report, seconds},
};

const PEERS: usize = 3;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let mut fleet =
        Fleet::loopback(options.proxy.clone(), Kind::Mesh, PEERS, &[("PROXY_PLACEMENT_HOLD", "1h")]).await?;
    let nodes: Vec<_> = (0..PEERS).map(|n| fleet.rtmp(n)).collect();
    let all = options.placements * PEERS;
    held::placements(&nodes, "ready", all).await?;
    for n in 0..PEERS {
        fleet.wait_for_placements(n, all).await?;
    }
    let joined = fleet.add(Place::loopback(), &[]);
    fleet.start(joined);
    let took = fleet.ready(joined).await?;
    report.good(
        format!(
            "from its start until a node is ready that joins {PEERS} peers with {} placements each",
            options.placements
        ),
        seconds(took),
        "≤ 3 s",
        took.as_secs_f64() <= 3.0,
    );
    let known = fleet.placements(joined).await?.len();
    report.right("placements that it knows then", known, &all.to_string(), known == all);
    Ok(())
}
