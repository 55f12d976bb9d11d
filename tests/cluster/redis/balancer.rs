//! The Redis balancer: what every balancer promises, with three nodes on a server and on a Cluster.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use srs_proxy::{
    balancer::{Balancer, redis::RedisBalancer},
    config,
};
use srs_proxy_test_support::conformance;

use srs_proxy_test_support::conformance::Fixture;
use srs_proxy_test_support::redis::{Redis, RedisCluster, balancer_config};

const NODES: usize = 3;

/// Nodes, and what they agree through.
struct Nodes<R> {
    nodes: Vec<Arc<dyn Balancer>>,
    _redis: R,
}

impl<R> Nodes<R> {
    async fn start(redis: R, config: &config::Redis) -> Self {
        let node = || Arc::new(RedisBalancer::start(&balancer_config(), config).unwrap()) as Arc<dyn Balancer>;
        let nodes: Vec<_> = (0..NODES).map(|_| node()).collect();
        for node in &nodes {
            let ready = async {
                while node.ready().await.is_err() {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), ready).await.expect("the nodes become ready");
        }
        Self { nodes, _redis: redis }
    }
}

macro_rules! fixture {
    ($redis:ty) => {
        #[async_trait]
        impl Fixture for Nodes<$redis> {
            async fn start() -> Self {
                let redis = <$redis>::start();
                let config = redis.config();
                Self::start(redis, &config).await
            }

            fn nodes(&self) -> Vec<Arc<dyn Balancer>> {
                self.nodes.clone()
            }

            fn origin_ttl(&self) -> Duration {
                balancer_config().origin_ttl
            }

            fn placement_hold(&self) -> Duration {
                balancer_config().placement_hold
            }

            async fn elapse(&self, time: Duration) {
                tokio::time::sleep(time).await;
            }
        }
    };
}

fixture!(Redis);
fixture!(RedisCluster);

mod server {
    use super::*;

    conformance!([tokio::test] Nodes<Redis>);
}

mod cluster {
    use super::*;

    conformance!([tokio::test] Nodes<RedisCluster>);
}
