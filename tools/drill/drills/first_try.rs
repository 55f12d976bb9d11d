//! Publish through one node; at the moment at which that is acknowledged, play through another.

use std::{net::SocketAddr, time::Duration};

use tokio::time::Instant;

use crate::{
    Result,
    client::{Client, Failure},
    fleet::{Fleet, Kind, each},
    options::Options,
    report::{Report, Times},
};

/// Tries at once.
const WIDTH: usize = 4;

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    for count in [3, 5] {
        let fleet = Fleet::loopback(options.proxy.clone(), Kind::Mesh, count, &[]).await?;
        let nodes: Vec<_> = (0..count).map(|n| fleet.rtmp(n)).collect();
        let tries = each(options.tries, WIDTH, |n| {
            let a = n % count;
            let b = (a + 1 + n / count % (count - 1)) % count;
            attempt(nodes[a], nodes[b], format!("first-{n}"))
        })
        .await?;
        let failed: Vec<_> = tries.iter().filter_map(|tried| tried.as_ref().err()).collect();
        let times: Times = tries.iter().filter_map(|tried| tried.as_ref().ok()).copied().collect();
        for failure in failed.iter().take(5) {
            eprintln!("  {failure}");
        }
        report.right(
            format!("published on A, played on B at 0 ms, {count} nodes"),
            format!("{} of {} at the first try", tries.len() - failed.len(), tries.len()),
            "all",
            failed.is_empty(),
        );
        report.state(format!("from the acknowledged publish to media on B, {count} nodes"), times);
    }
    Ok(())
}

async fn attempt(a: SocketAddr, b: SocketAddr, name: String) -> Result<Duration, Failure> {
    let (mut publisher, mut player) = tokio::try_join!(Client::open(a), Client::open(b))?;
    publisher.publish(&name).await?;
    let acknowledged = Instant::now();
    let play = async {
        player.play(&name).await?;
        player.frame(&name).await
    };
    tokio::try_join!(publisher.send(&name, 0), play)?;
    Ok(acknowledged.elapsed())
}
