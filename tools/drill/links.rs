//! Bad links between nodes on one machine: what is sent to a node goes through a relay, which may
//! delay it and lose some of it. What the node answers comes back at once, so that the two
//! directions differ.
//!
//! The kernel could do this as well (netem), where it has that.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::RngExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::Result;

/// How long TCP waits before it sends again what was lost; the least that Linux waits.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// Bytes that TCP puts into a packet.
const SEGMENT: usize = 1448;
const DATAGRAM: usize = 65_536;
/// Packets that are on their way at once on one TCP connection.
const IN_FLIGHT: usize = 64;

/// What a link does to what is sent to a node.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Every packet takes so much longer.
    pub delay: Duration,
    /// Packets that are lost, of 100.
    pub loss: u32,
}

impl Weather {
    fn loses(self) -> bool {
        rand::rng().random_range(0..100) < self.loss
    }
}

/// A relay in front of a node, until it is dropped.
pub struct Link {
    _tasks: JoinSet<()>,
}

impl Link {
    /// Lets others reach the node at `gossip` and `grpc` under `address`, with the same ports.
    pub async fn start(address: Ipv4Addr, gossip: SocketAddr, grpc: SocketAddr, weather: Weather) -> Result<Self> {
        let udp = UdpSocket::bind((address, gossip.port())).await?;
        let tcp = TcpListener::bind((address, grpc.port())).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(datagrams(Arc::new(udp), gossip, weather));
        tasks.spawn(connections(tcp, grpc, weather));
        Ok(Self { _tasks: tasks })
    }
}

async fn datagrams(front: Arc<UdpSocket>, node: SocketAddr, weather: Weather) {
    // One socket for each sender, so that the node's answers find their way back.
    let mut senders: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((length, from)) = front.recv_from(&mut buffer).await else { continue };
        let back = match senders.entry(from) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => {
                let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
                let back = Arc::clone(new.insert(Arc::new(back)));
                tasks.spawn(answers(Arc::clone(&back), Arc::clone(&front), from));
                back
            }
        };
        if weather.loses() {
            continue;
        }
        let datagram = buffer[..length].to_vec();
        tasks.spawn(async move {
            sleep(weather.delay).await;
            // The node may be down; then this is lost as well.
            let _ = back.send_to(&datagram, node).await;
        });
    }
}

async fn answers(back: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        match back.recv(&mut buffer).await {
            Ok(length) => {
                let _ = front.send_to(&buffer[..length], to).await;
            }
            // The kernel tells so that the node did not listen.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

async fn connections(listener: TcpListener, node: SocketAddr, weather: Weather) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                open.spawn(async move {
                    // The first packet of a connection takes its time as well.
                    sleep(weather.delay).await;
                    let Ok(server) = TcpStream::connect(node).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let back = Weather { delay: Duration::ZERO, loss: 0 };
                    tokio::select! {
                        () = pass(from_client, to_server, weather) => {}
                        () = pass(from_server, to_client, back) => {}
                    }
                });
            }
            Some(_) = open.join_next() => {}
        }
    }
}

/// Passes bytes on in order, each when it is due. A lost packet holds up those behind it.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, weather: Weather) {
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut latest = Instant::now();
    let mut buffer = vec![0; SEGMENT];
    loop {
        let due = queue.front().map(|(due, _)| *due);
        tokio::select! {
            read = from.read(&mut buffer), if queue.len() < IN_FLIGHT => {
                let Ok(length @ 1..) = read else { return };
                let stall = if weather.loses() { RETRANSMISSION } else { Duration::ZERO };
                latest = latest.max(Instant::now() + weather.delay + stall);
                queue.push_back((latest, buffer[..length].to_vec()));
            }
            () = sleep_until(due.unwrap_or(latest)), if due.is_some() => {
                if let Some((_, bytes)) = queue.pop_front()
                    && to.write_all(&bytes).await.is_err()
                {
                    return;
                }
            }
        }
    }
}
