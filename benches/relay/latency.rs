//! How long a player waits for its first media.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{Result, client::Player, stats::percentile};

/// Between connections, so that the end of one does not disturb the next.
const PAUSE: Duration = Duration::from_millis(3);

/// What a relay adds to the time from connect to first media, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Added {
    /// The median through the relay less that of direct connections.
    pub p50: f64,
    /// The same of the 99th percentile.
    pub p99: f64,
}

/// Connects through `relay` and directly to `origin` in turn.
pub async fn measure(relay: SocketAddr, origin: SocketAddr, name: &str, connects: usize) -> Result<Added> {
    let (mut through, mut direct) = (Vec::with_capacity(connects), Vec::with_capacity(connects));
    for _ in 0..connects {
        direct.push(first_media(origin, name).await?);
        through.push(first_media(relay, name).await?);
    }
    let added = |part| percentile(&through, part) - percentile(&direct, part);
    Ok(Added { p50: added(0.50), p99: added(0.99) })
}

async fn first_media(server: SocketAddr, name: &str) -> Result<f64> {
    sleep(PAUSE).await;
    let start = Instant::now();
    let player = Player::play(server, name).await?;
    let waited = start.elapsed();
    drop(player);
    Ok(waited.as_secs_f64() * 1e3)
}
