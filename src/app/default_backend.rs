//! The origin that the configuration names (`PROXY_DEFAULT_BACKEND_*`), for servers that send no
//! heartbeat of their own. This process sends it in their place.

use std::{sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    balancer::{Balancer, DEFAULT_BACKEND_PREFIX},
    config::DefaultBackend,
    origin::{Origin, Protocol},
};

/// The longest time between two heartbeats.
const MAX_INTERVAL: Duration = Duration::from_secs(30);

/// The origin that `backend` describes. Its id follows from its address alone, so that it is one origin
/// for all nodes that have the same setting, and stays the same when one of them restarts.
pub fn origin(backend: &DefaultBackend) -> Origin {
    let optional = |endpoint: &Option<_>| endpoint.iter().cloned().collect();
    let mut origin = Origin {
        server_id: String::new(),
        service_id: "configured".into(),
        pid: "0".into(),
        device_id: "default-backend".into(),
        ip: backend.ip.clone(),
        rtmp: vec![backend.rtmp.clone()],
        http: optional(&backend.http),
        api: optional(&backend.api),
        srt: optional(&backend.srt),
        rtc: optional(&backend.rtc),
        software: String::new(),
        cpu: None,
    };
    let (host, port) = origin.address(Protocol::Rtmp).unwrap_or((&backend.ip, backend.rtmp.port()));
    origin.server_id = format!("{DEFAULT_BACKEND_PREFIX}{host}:{port}");
    origin
}

/// Sends the origin's heartbeat, the first at once, until `stop` fires. `ttl` is how long one holds.
pub async fn keep_registered(balancer: Arc<dyn Balancer>, origin: Origin, ttl: Duration, stop: CancellationToken) {
    let mut ticks = interval(MAX_INTERVAL.min(ttl / 3));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut registered = None;
    let heartbeats = async {
        loop {
            ticks.tick().await;
            let result = balancer.register(origin.clone()).await;
            // A state is told when it begins, not with every heartbeat.
            if registered != Some(result.is_ok()) {
                match &result {
                    Ok(()) => info!(origin = %origin.id(), "default backend registered"),
                    Err(error) => warn!(origin = %origin.id(), %error, "default backend not registered"),
                }
            }
            registered = Some(result.is_ok());
        }
    };
    stop.run_until_cancelled(heartbeats).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::{
        balancer::memory::MemoryBalancer,
        config::{self, BalancerType, Policy},
        origin::Endpoint,
    };

    const TTL: Duration = Duration::from_mins(1);

    fn backend(ip: &str, rtmp: &str) -> DefaultBackend {
        let endpoint = |text| Endpoint::parse(text).unwrap();
        DefaultBackend {
            ip: ip.into(),
            rtmp: endpoint(rtmp),
            http: None,
            api: Some(endpoint("1985")),
            rtc: Some(endpoint("8000")),
            srt: None,
        }
    }

    fn balancer(max_origins: usize) -> Arc<MemoryBalancer> {
        Arc::new(MemoryBalancer::new(&config::Balancer {
            kind: BalancerType::Memory,
            policy: Policy::PowerOfTwo,
            origin_ttl: TTL,
            placement_hold: TTL,
            connecting: TTL,
            max_origins,
            max_streams: 1,
        }))
    }

    #[test]
    fn the_origin_has_the_endpoints_that_are_configured_and_one_id_for_all_nodes() {
        let first = origin(&backend("10.0.0.1", "tcp://:1936"));
        assert_eq!(first.address(Protocol::Rtmp), Some(("10.0.0.1", 1936)));
        assert_eq!(first.server_id, "default-10.0.0.1:1936");
        assert!(first.serves(Protocol::Api) && first.serves(Protocol::Rtc));
        assert!(!first.serves(Protocol::Http) && !first.serves(Protocol::Srt) && !first.is_srs());

        assert_eq!(origin(&backend("10.0.0.1", "1936")).id(), first.id());
        let other = origin(&backend("10.0.0.1", "tcp://10.0.0.2:1936"));
        assert_eq!(other.server_id, "default-10.0.0.2:1936");
    }

    #[tokio::test(start_paused = true)]
    async fn the_origin_stays_registered_for_as_long_as_the_process_serves() {
        let balancer = balancer(1);
        let stop = CancellationToken::new();
        let origin = origin(&backend("127.0.0.1", "1935"));
        let kept = tokio::spawn(keep_registered(balancer.clone(), origin, TTL, stop.clone()));
        for _ in 0..10 {
            sleep(TTL / 2).await;
            let origins = balancer.origins().await.unwrap();
            assert_eq!(origins.len(), 1);
            assert!(origins[0].heartbeat_age <= TTL / 3);
        }
        stop.cancel();
        kept.await.unwrap();
        advance(TTL * 2).await;
        assert!(balancer.origins().await.unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_fails_is_sent_again() {
        let balancer = balancer(1);
        let other = origin(&backend("127.0.0.2", "1935"));
        balancer.register(other.clone()).await.unwrap();
        let ours = origin(&backend("127.0.0.1", "1935"));
        let kept = tokio::spawn(keep_registered(balancer.clone(), ours.clone(), TTL, CancellationToken::new()));
        sleep(TTL / 2).await;
        assert_eq!(balancer.origins().await.unwrap()[0].origin.id(), other.id());
        // The other one, which sends no more heartbeats, has made room.
        sleep(TTL).await;
        assert_eq!(balancer.origins().await.unwrap()[0].origin.id(), ours.id());
        kept.abort();
    }
}
