//! The origin that the configuration names (`PROXY_DEFAULT_BACKEND_*`), for servers that send no
//! heartbeat of their own. This process sends it in their place.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    balancer::{Balancer, DEFAULT_BACKEND_PREFIX},
    config::DefaultBackend,
    origin::{Origin, Protocol},
};

/// The longest time between two heartbeats.
const MAX_INTERVAL: Duration = Duration::from_secs(30);
/// The longest time until one that was not taken is sent again.
const MAX_RETRY: Duration = Duration::from_secs(2);
/// Stands for the run of the server, and [`PID`] for its process: nothing is known of either.
const SERVICE_ID: &str = "configured";
const PID: &str = "0";

/// The origin that `backend` describes. Its id follows from its RTMP address alone, so that all nodes
/// of a cluster, and all runs of each, mean the same origin.
pub fn origin(backend: &DefaultBackend) -> Origin {
    let optional = |endpoint: &Option<_>| endpoint.iter().cloned().collect();
    let mut origin = Origin {
        server_id: String::new(),
        service_id: SERVICE_ID.into(),
        pid: PID.into(),
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
    origin.server_id = format!("{DEFAULT_BACKEND_PREFIX}{}:{port}", host.to_ascii_lowercase());
    origin
}

/// Sends the origin's heartbeat, the first at once, until `stop` fires. `ttl` is how long one holds.
pub async fn keep_registered(balancer: Arc<dyn Balancer>, origin: Origin, ttl: Duration, stop: CancellationToken) {
    let mut registered = None;
    let heartbeats = async {
        loop {
            let result = balancer.register(origin.clone()).await;
            // A state is told when it begins, not with every heartbeat.
            if registered != Some(result.is_ok()) {
                match &result {
                    Ok(()) => info!(origin = %origin.id(), "default backend registered"),
                    Err(error) => warn!(origin = %origin.id(), %error, "default backend not registered"),
                }
            }
            registered = Some(result.is_ok());
            sleep(if result.is_ok() { MAX_INTERVAL } else { MAX_RETRY }.min(ttl / 3)).await;
        }
    };
    stop.run_until_cancelled(heartbeats).await;
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;
    use crate::{
        balancer::{Intent, PlaceRequest, memory::MemoryBalancer},
        config::{self, BalancerType, Policy},
        origin::Endpoint,
        stream::StreamKey,
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
    fn the_origin_has_the_endpoints_that_are_configured_and_an_id_that_all_nodes_give_it() {
        let first = origin(&backend("10.0.0.1", "tcp://:1936"));
        assert_eq!(first.address(Protocol::Rtmp), Some(("10.0.0.1", 1936)));
        assert_eq!(first.server_id, "default-10.0.0.1:1936");
        assert!(first.serves(Protocol::Api) && first.serves(Protocol::Rtc));
        assert!(!first.serves(Protocol::Http) && !first.serves(Protocol::Srt) && !first.is_srs());

        let written_otherwise = DefaultBackend { http: None, api: None, ..backend("10.0.0.1", "1936") };
        assert_eq!(origin(&written_otherwise).id(), first.id(), "only the address counts");
        assert_eq!(first.id().as_str(), "default-10.0.0.1:1936-configured-0");
        let other = origin(&backend("10.0.0.1", "tcp://10.0.0.2:1936"));
        assert_eq!(other.server_id, "default-10.0.0.2:1936");
        assert_eq!(origin(&backend("Media.Local", "1936")).id(), origin(&backend("media.local", "1936")).id());
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
    async fn nodes_with_one_configuration_register_one_origin_and_a_restarted_node_keeps_its_placements() {
        let balancer = balancer(1);
        let origin = origin(&backend("127.0.0.1", "1935"));
        let node = || {
            let stop = CancellationToken::new();
            (tokio::spawn(keep_registered(balancer.clone(), origin.clone(), TTL, stop.clone())), stop)
        };
        let (first, other) = (node(), node());
        sleep(TTL / 2).await;
        let stream = StreamKey::from_shared("v/live/a").unwrap();
        let request = PlaceRequest { stream: &stream, protocol: Protocol::Rtmp, intent: Intent::Publish, avoid: &[] };
        let placed = balancer.place(request).await.unwrap();
        first.1.cancel();
        first.0.await.unwrap();
        let restarted = node();
        sleep(TTL / 2).await;
        assert_eq!(balancer.origins().await.unwrap().len(), 1);
        let kept = balancer.place(request).await.unwrap();
        assert_eq!((kept.origin.id(), kept.epoch), (placed.origin.id(), placed.epoch));
        for (node, _) in [other, restarted] {
            node.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn while_nodes_differ_about_an_endpoint_the_last_heartbeat_wins() {
        let balancer = balancer(1);
        let endpoint = |text| Some(Endpoint::parse(text).unwrap());
        let old = origin(&DefaultBackend { http: endpoint("8080"), ..backend("127.0.0.1", "1935") });
        let new = origin(&DefaultBackend { http: endpoint("8081"), ..backend("127.0.0.1", "1935") });
        for origin in [&old, &new, &old, &new] {
            balancer.register(origin.clone()).await.unwrap();
            let origins = balancer.origins().await.unwrap();
            assert_eq!((origins.len(), &*origins[0].origin), (1, origin));
        }
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
        // The other one, which sends no more heartbeats, makes room.
        sleep(TTL / 2 + MAX_RETRY).await;
        assert_eq!(balancer.origins().await.unwrap()[0].origin.id(), ours.id());
        kept.abort();
    }
}
