//! How long a player waits for its first media.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{Result, client::Player, stats::percentile};

/// Between connections, so that the end of one does not disturb the next.
const PAUSE: Duration = Duration::from_millis(3);

/// Percentiles of the time from connect to first media, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Of connections to the origin itself.
    pub direct: Percentiles,
    /// What the relay adds to each of them.
    pub added: Percentiles,
}

/// The median, and what one in a hundred exceeds.
#[derive(Debug, Clone, Copy)]
pub struct Percentiles {
    /// The 50th.
    pub p50: f64,
    /// The 99th.
    pub p99: f64,
}

/// Connects through `relay` and directly to `origin` in turn.
pub async fn measure(relay: SocketAddr, origin: SocketAddr, name: &str, connects: usize) -> Result<Latency> {
    let (mut through, mut direct) = (Vec::with_capacity(connects), Vec::with_capacity(connects));
    for _ in 0..connects {
        direct.push(first_media(origin, name).await?);
        through.push(first_media(relay, name).await?);
    }
    let [through, direct] =
        [through, direct].map(|times| Percentiles { p50: percentile(&times, 0.50), p99: percentile(&times, 0.99) });
    Ok(Latency { direct, added: Percentiles { p50: through.p50 - direct.p50, p99: through.p99 - direct.p99 } })
}

async fn first_media(server: SocketAddr, name: &str) -> Result<f64> {
    sleep(PAUSE).await;
    let start = Instant::now();
    let player = Player::play(server, name).await?;
    let waited = start.elapsed();
    drop(player);
    Ok(waited.as_secs_f64() * 1e3)
}
