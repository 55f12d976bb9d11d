//! WebRTC: offers and answers by HTTP ([`signalling`]), media by UDP.

mod candidates;
pub mod registry;
pub mod signalling;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::registry::Registry;
use crate::{balancer::Balancer, config, metrics::Metrics, relay::http::Client, session::Sessions, stream::Vhosts};

/// How long placing a stream may take at the most, whatever the balancer.
const PLACING: Duration = Duration::from_secs(5);

/// What all sessions share.
pub struct Context {
    /// Places the streams.
    pub balancer: Arc<dyn Balancer>,
    /// Lists the sessions.
    pub sessions: Sessions,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// The settings.
    pub config: config::Webrtc,
    /// Settings of connections to origins.
    pub upstream: config::Upstream,
    /// Asks origins.
    pub client: Client,
    /// Where everything is counted.
    pub metrics: Metrics,
    /// The sessions whose media may arrive.
    pub registry: Registry,
    /// Where media arrive.
    pub media_port: u16,
    /// The one address at which they do, if it is not every address of the machine.
    pub media_ip: Option<IpAddr>,
    /// Cancelled when no more sessions are taken.
    pub draining: CancellationToken,
    /// Cancelled when the sessions that are left are to end.
    pub closing: CancellationToken,
}

/// How long the answer to an offer may take, whoever has to be asked for it.
pub fn patience(webrtc: &config::Webrtc, upstream: &config::Upstream) -> Duration {
    let attempts = u32::try_from(upstream.max_attempts).unwrap_or(u32::MAX);
    // An answer is its header and its body.
    let attempt = PLACING.saturating_add(upstream.connect_timeout).saturating_add(webrtc.answer_timeout * 2);
    attempt.saturating_mul(attempts)
}
