//! Ten thousand streams are placed. A node joins, one leaves, one is killed: none of them moves.

use std::collections::BTreeMap;

use super::held;
use crate::{
    Result,
    api::Placed,
    client::Held,
    fleet::{Fleet, Kind, Place},
    options::Options,
    report::{Report, seconds},
};

const NODES: usize = 3;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    // What nobody uses must not expire meanwhile.
    let settings = [("PROXY_PLACEMENT_HOLD", "1h")];
    let mut fleet = Fleet::loopback(options.proxy.clone(), Kind::Mesh, NODES, &settings).await?;
    let nodes: Vec<_> = (0..NODES).map(|n| fleet.rtmp(n)).collect();
    let mut held = held::sessions(&nodes, "held", options.placements.min(held::capacity())).await?;
    held::placements(&nodes, "unused", options.placements - held.len()).await?;
    report.state(
        "placements held, and how many of them by a publisher",
        format!("{}, {} (a session takes two open files of the drill)", options.placements, held.len()),
    );
    for n in 0..NODES {
        fleet.wait_for_placements(n, options.placements).await?;
    }
    let before = fleet.placements(0).await?;
    for n in 1..NODES {
        let differing = moved(&before, &fleet.placements(n).await?);
        report.right(format!("listed otherwise by node {n} than by node 0"), differing, "0", differing == 0);
    }

    let joined = fleet.add(Place::loopback(), &[]);
    fleet.start(joined);
    let took = fleet.ready(joined).await?;
    report.good("a joining node is ready", seconds(took), "≤ 3 s", took.as_secs_f64() <= 3.0);
    compare("a node joined", &fleet, &before, &held, report).await?;

    fleet.terminate(joined);
    fleet.ended(joined).await?;
    compare("a node left (SIGTERM)", &fleet, &before, &held, report).await?;

    fleet.kill(NODES - 1);
    // The sessions through the dead node have ended with it; the others live on, and the placements
    // of the ended ones are kept for their publishers' return.
    let mut n = 0;
    held.retain(|_| {
        n += 1;
        n % NODES != 0
    });
    compare("a node was killed (kill -9)", &fleet, &before, &held, report).await
}

/// Looks what has become of all placements and of the sessions, once the nodes agree on who they are.
async fn compare(
    event: &str,
    fleet: &Fleet,
    before: &BTreeMap<String, Placed>,
    held: &[Held],
    report: &mut Report,
) -> Result<()> {
    let took = fleet.stable().await?;
    report.state(format!("{event}: the nodes agree on who they are"), seconds(took));
    for n in fleet.running() {
        fleet.wait_for_placements(n, before.len()).await?;
        let moved = moved(before, &fleet.placements(n).await?);
        report.right(format!("{event}: placements moved, as node {n} lists them"), moved, "0", moved == 0);
    }
    let disturbed = held.iter().filter(|session| !session.is_undisturbed()).count();
    report.right(format!("{event}: sessions disturbed, of {}", held.len()), disturbed, "0", disturbed == 0);
    let gone = held.iter().filter(|session| fleet.published_at(&session.name).len() != 1).count();
    report.right(format!("{event}: streams not on exactly one origin"), gone, "0", gone == 0);
    Ok(())
}

/// How many streams have another origin or another epoch than before, or none.
fn moved(before: &BTreeMap<String, Placed>, after: &BTreeMap<String, Placed>) -> usize {
    before.iter().filter(|(stream, placed)| after.get(*stream) != Some(placed)).count()
}
