//! The mesh balancer: what every balancer promises, with one node and with several.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use srs_proxy::balancer::Balancer;
use srs_proxy_test_support::conformance;

use srs_proxy_test_support::conformance::Fixture;
use srs_proxy_test_support::mesh_nodes::{MeshNode, placement, start_all};

struct Mesh<const NODES: usize>(Vec<MeshNode>);

#[async_trait]
impl<const NODES: usize> Fixture for Mesh<NODES> {
    async fn start() -> Self {
        Self(start_all(NODES, &placement()).await)
    }

    fn nodes(&self) -> Vec<Arc<dyn Balancer>> {
        self.0.iter().map(|node| Arc::clone(&node.balancer)).collect()
    }

    fn origin_ttl(&self) -> Duration {
        placement().origin_ttl
    }

    fn placement_hold(&self) -> Duration {
        placement().placement_hold
    }

    async fn elapse(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

mod one_node {
    use super::*;

    conformance!([tokio::test(flavor = "multi_thread", worker_threads = 2)] Mesh<1>);
}

mod three_nodes {
    use super::*;

    conformance!([tokio::test(flavor = "multi_thread", worker_threads = 2)] Mesh<3>);
}

mod five_nodes {
    use super::*;

    conformance!([tokio::test(flavor = "multi_thread", worker_threads = 2)] Mesh<5>);
}
