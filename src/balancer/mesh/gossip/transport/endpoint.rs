//! The QUIC endpoint of a node (RFC 9000): one UDP socket, over which it both dials and answers.

use std::{
    any::Any,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use quinn::{
    AsyncUdpSocket, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, Runtime, TokioRuntime,
    TransportConfig, UdpPoller, VarInt,
    congestion::{Controller, ControllerFactory},
    udp::{RecvMeta, Transmit},
};
use ring::hmac;
use sha2::{Digest, Sha256};

use super::{MAX_ENVELOPE, connections::MAX_HANDSHAKES};
use crate::balancer::mesh::{
    gossip::{StartError, counters::Counters},
    link::tls::Credentials,
};

/// How long a connection is kept without a packet. Nodes of a mesh of hundreds gossip with each other
/// every few seconds.
const IDLE: VarInt = VarInt::from_u32(30_000);
/// The round trip that is assumed before one was measured. Handshake packets are sent again after
/// three of these, then at twice that interval.
const INITIAL_RTT: Duration = Duration::from_millis(50);
/// Messages of one peer that may be under way.
const MAX_STREAMS: VarInt = VarInt::from_u32(32);
/// Bytes of one peer that may be under way.
const RECEIVE_WINDOW: u32 = 4 * MAX_ENVELOPE as u32;
/// Bytes to one peer that may be in flight.
const IN_FLIGHT: u64 = 4 * MAX_ENVELOPE as u64;
/// The longest packet, which no usual network needs to cut up.
const MAX_PACKET: u16 = 1200;
/// Bytes of one connection that is not yet accepted, and of all, that are kept.
const INCOMING_BUFFER: u64 = 4 * MAX_PACKET as u64;

/// Opens an endpoint on `socket`. Must be called within the runtime that is to drive it.
pub(super) fn open(
    socket: std::net::UdpSocket,
    credentials: &Credentials,
    cluster_id: &str,
    node: &str,
    counters: Arc<Counters>,
) -> Result<Endpoint, StartError> {
    let transport = Arc::new(transport());
    let (client, server) = credentials.quic(&protocol(cluster_id))?;
    let mut client = quinn::ClientConfig::new(client);
    client.transport_config(Arc::clone(&transport));
    let mut server = quinn::ServerConfig::with_crypto(server);
    server
        .transport_config(transport)
        .migration(false)
        .max_incoming(MAX_HANDSHAKES)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER * MAX_HANDSHAKES as u64);

    // A later run of this node tells its peers that it does not know the connections of this one (RFC
    // 9000, section 10.3), so the key and the connection ids must not depend on the run.
    let secret = credentials.secret(&[b"gossip stateless reset", node.as_bytes()])?;
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &secret)));
    config.cid_generator(|| Box::new(RandomIds));

    let runtime = Arc::new(TokioRuntime);
    let socket = Arc::new(CountedSocket { socket: runtime.wrap_udp_socket(socket)?, counters });
    let mut endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime)?;
    endpoint.set_default_client_config(client);
    Ok(endpoint)
}

/// What the two sides of a connection must have in common beside the key (ALPN, RFC 7301). It names the
/// cluster, so that nodes of another one are refused in the handshake.
pub fn protocol(cluster_id: &str) -> Vec<u8> {
    let digest = Sha256::new().chain_update(b"srs-proxy mesh cluster\0").chain_update(cluster_id).finalize();
    [b"srs-proxy-gossip/1/", &digest[..8]].concat()
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(IDLE)))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(MAX_STREAMS)
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        .send_window(IN_FLIGHT)
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .initial_mtu(MAX_PACKET)
        .congestion_controller_factory(Arc::new(FixedWindow));
    config
}

/// The same window whatever is lost. What gossip sends is bounded by its interval and by the answers
/// of peers; a window that shrinks with losses would hold it back where it matters most.
#[derive(Debug, Clone, Copy)]
struct FixedWindow;

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _: Instant, _: u16) -> Box<dyn Controller> {
        Box::new(*self)
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn on_mtu_update(&mut self, _: u16) {}

    fn window(&self) -> u64 {
        IN_FLIGHT
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        IN_FLIGHT
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A UDP socket whose packets are counted.
#[derive(Debug)]
struct CountedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    counters: Arc<Counters>,
}

impl AsyncUdpSocket for CountedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        let length = transmit.contents.len();
        self.counters.count_sent(length.div_ceil(transmit.segment_size.unwrap_or(length).max(1)), length);
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(context, buffers, meta);
        if let Poll::Ready(Ok(count)) = received {
            for received in &meta[..count] {
                self.counters.count_received(received.len.div_ceil(received.stride.max(1)), received.len);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
