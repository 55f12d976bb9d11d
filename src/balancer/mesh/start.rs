//! A node of a mesh over the real network: gossip over UDP, questions over gRPC.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{
    MeshBalancer,
    gossip::{self, ChitchatStore, EventReceiver},
    link::{
        Membership,
        client::Client,
        refusals::Refusals,
        server::{Limits, Server},
        tls::{Credentials, CredentialsError},
    },
    model::member::NodeState,
    node::{Node, Settings},
    traits::RequestHandler,
};
use crate::{
    config::{self, Secret, keys},
    net::{self, ListenError},
};

/// A node counts as heard of for so many gossip intervals after a sign of life. Others count it as
/// dead later than that.
const FRESH_INTERVALS: u32 = 6;

/// Why there is no node.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Gossip did not start.
    #[error(transparent)]
    Gossip(#[from] gossip::StartError),
    /// The keys make no credentials.
    #[error("PROXY_MESH_KEY: {0}")]
    Credentials(#[from] CredentialsError),
    /// A listener was opened, but has no address.
    #[error("the address of a listener of the mesh: {0}")]
    Address(#[from] io::Error),
}

/// A node whose listeners are open.
pub struct Started {
    /// The node as a balancer.
    pub balancer: Arc<MeshBalancer<ChitchatStore, Client>>,
    /// What the node does. It ends after the node has left, or by a fault.
    pub run: BoxFuture<'static, ()>,
    /// Where gossip arrives.
    pub gossip_addr: SocketAddr,
    /// Where gRPC is answered.
    pub grpc_addr: SocketAddr,
}

/// Opens the listeners, and begins to gossip. The node joins when its `run` is polled.
pub async fn start(mesh: &config::Mesh, placement: &config::Balancer) -> Result<Started, StartError> {
    let listener = net::listen(&mesh.grpc_listen, &keys::PROXY_MESH_GRPC_LISTEN.spec).await?;
    let bound = gossip::Bound::open(mesh).await?;
    let (gossip_addr, grpc_addr) = (bound.local_addr(), listener.local_addr()?);
    let grpc = format!("{}:{}", bound.advertised().host, grpc_addr.port());
    let gossip = bound.start().await?;
    let (me, counters) = (gossip.me.clone(), Arc::clone(&gossip.counters));
    let (board, feed, leaver) = gossip.split();
    tracing::info!(
        node = %me.node, cluster = mesh.cluster_id, gossip = %gossip_addr, grpc, encrypted = mesh.key.is_some(), "mesh started"
    );

    let bytes = |secret: &Secret| secret.expose().as_bytes().to_vec();
    let previous = mesh.key_previous.as_ref().map(bytes);
    let credentials = mesh.key.as_ref().map(|key| Credentials::derive(&bytes(key), previous.as_deref())).transpose()?;
    let membership = Arc::new(Membership { cluster: mesh.cluster_id.clone(), node: me.node.clone(), credentials });
    let settings = Settings {
        me,
        grpc,
        wall: Arc::new(wall_clock),
        seed: rand::random(),
        policy: placement.policy,
        origin_ttl: placement.origin_ttl,
        hold: placement.placement_hold,
        connecting: placement.connecting,
        max_origins: placement.max_origins,
        max_streams: placement.max_streams,
        renew: mesh.renew_interval,
        rpc: mesh.rpc_timeout,
        join: mesh.join_timeout,
        fresh: mesh.gossip_interval.saturating_mul(FRESH_INTERVALS).max(Duration::from_millis(100)),
        expects_others: !mesh.seeds.is_empty(),
    };
    let client = Client::new(Arc::clone(&membership), mesh.rpc_timeout);
    let calls = client.metrics();
    let node = Node::new(settings, board, client);
    let refusals = Arc::new(Refusals::default());
    let handler: Arc<dyn RequestHandler> = Arc::new(Arc::clone(&node));
    let server = Server { membership, handler, limits: Limits::default(), refusals: Arc::clone(&refusals) };
    let stop = CancellationToken::new();
    let run = Box::pin(live(Arc::clone(&node), feed, server, listener, stop.clone()));
    let balancer = MeshBalancer::new(node).ended_by(leaver, stop).with_counters(counters, refusals, calls);
    Ok(Started { balancer: Arc::new(balancer), run, gossip_addr, grpc_addr })
}

async fn live(
    node: Arc<Node<ChitchatStore, Client>>,
    feed: EventReceiver,
    server: Server,
    listener: TcpListener,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = Arc::clone(&node).run(feed) => {
            if *node.phase().borrow() != NodeState::Left {
                tracing::error!("gossip ended by a fault of this program");
            }
        }
        () = server.serve(listener, stop.child_token()) => {}
    }
}

/// Microseconds since 1970.
fn wall_clock() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}
