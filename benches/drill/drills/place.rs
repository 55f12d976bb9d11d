//! How long the answer to "where is this stream?" takes: as clients see it, and by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    Result,
    client::Client,
    fleet::{Fleet, Kind},
    options::Options,
    report::{Report, Times},
};

const NODES: usize = 3;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let alone = Fleet::loopback(options.proxy.clone(), Kind::Memory, 1, &[]).await?;
    let without = publish_fresh(&alone, options.tries).await?;
    drop(alone);
    let mesh = Fleet::loopback(options.proxy.clone(), Kind::Mesh, NODES, &[]).await?;
    let with = publish_fresh(&mesh, options.tries).await?;
    report.state("publish of a fresh name, one node with memory", &without);
    report.state(format!("publish of a fresh name, {NODES} nodes"), &with);
    Ok(())
}

/// Publishes fresh names one after the other through one node.
async fn publish_fresh(fleet: &Fleet, count: usize) -> Result<Times> {
    let mut times: Vec<Duration> = Vec::with_capacity(count);
    for n in 0..count {
        let name = format!("place-{n}");
        let mut client = Client::open(fleet.rtmp(0)).await?;
        let asked = Instant::now();
        client.publish(&name).await?;
        times.push(asked.elapsed());
    }
    Ok(times.into_iter().collect())
}
