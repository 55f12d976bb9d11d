//! Moves datagrams: sockets that receive and send many at once.
//!
//! A listener has one socket for each worker ([`crate::net::listen_udp_group`]); the system keeps a
//! client with its socket. A session has a socket of its own towards its origin, which a task on some
//! worker reads ([`Reader`]) and whose datagrams it sends on ([`forward`]); whoever reads the client's
//! sends them to the origin. Sending needs no task: the system takes a datagram at once or it is lost,
//! which is what the protocols above expect of UDP.

mod batch;
mod forward;

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
    sync::Arc,
};

use nix::sys::socket::{
    setsockopt,
    sockopt::{IpRecvTos, Ipv4PacketInfo, Ipv6RecvPacketInfo, Ipv6RecvTClass, ReceiveTimestampns},
};
use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, SockRef, Type};
use tokio::io::{Interest, unix::AsyncFd};

pub use forward::{Flow, Forwarded, forward};

/// Bytes that the system keeps of what comes for one session, as far as it allows. The largest bursts
/// are key frames.
const SESSION_BUFFER: usize = 1024 * 1024;
/// How many batches are read before others get their turn.
const TURN: usize = 8;

/// What is waited for: datagrams, and the news that nobody listens at the other end. Of a socket that
/// can be written to, the system would tell after each datagram that has left.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Where a client is, and the address of this node that it uses, which answers have to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Path {
    /// The client's address, as the system gave it: an IPv4 client of a dual-stack listener has an
    /// IPv6 one.
    pub peer: SocketAddr,
    /// This node's; none where the listener has only one.
    pub local: Option<IpAddr>,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::net::canonical(self.peer).fmt(f)
    }
}

/// One or more datagrams that came together from one peer.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// From where.
    pub path: Path,
    bytes: &'a [u8],
    stride: usize,
}

impl<'a> Received<'a> {
    /// Each of the datagrams.
    pub fn datagrams(self) -> impl Iterator<Item = &'a [u8]> {
        // An empty datagram is one, too.
        let empty = self.bytes.is_empty().then_some(self.bytes);
        self.bytes.chunks(self.stride.max(1)).chain(empty)
    }
}

/// A UDP socket.
#[derive(Debug)]
pub struct Socket {
    udp: UdpSocket,
    state: UdpSocketState,
    /// Whether it has more than one address of this node.
    is_wildcard: bool,
}

impl Socket {
    /// Makes use of a socket that is bound.
    pub fn new(socket: UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        // What is too large for the way is cut by the system as elsewhere, not lost: a client may use
        // all that its own network carries, and the origin's may carry less.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::WANT)
            .or_else(|error| if local.is_ipv6() { Ok(()) } else { Err(error) })?;
        if local.is_ipv6() {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::WANT)?;
        }
        let is_wildcard = local.ip().is_unspecified();
        tell_less(&socket, is_wildcard);
        Ok(Self { udp: socket, state, is_wildcard })
    }

    /// A socket for datagrams to and from `to` alone.
    pub fn connect(to: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = socket2::Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(SESSION_BUFFER)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(any, 0).into())?;
        socket.connect(&to.into())?;
        Self::new(socket.into())
    }

    /// Its own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Sends one datagram to the peer that the socket is connected to.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        SockRef::from(&self.udp).send(datagram).map(drop)
    }

    /// Sends one datagram to a client.
    pub fn send_to(&self, datagram: &[u8], path: Path) -> io::Result<()> {
        match path.local {
            // The system has less to read and to check than with what `transmit` tells it.
            None => SockRef::from(&self.udp).send_to(datagram, &path.peer.into()).map(drop),
            Some(_) => self.transmit(datagram, path, None),
        }
    }

    /// Sends several datagrams, each of `size` bytes but for the last, which may be shorter.
    fn send_many(&self, datagrams: &[u8], size: usize, path: Path) -> io::Result<()> {
        self.transmit(datagrams, path, Some(size))
    }

    fn transmit(&self, contents: &[u8], path: Path, segment_size: Option<usize>) -> io::Result<()> {
        let transmit = Transmit { destination: path.peer, ecn: None, contents, segment_size, src_ip: path.local };
        self.state.try_send(UdpSockRef::from(&self.udp), &transmit)
    }

    /// How many datagrams one call can send.
    fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }
}

/// Has the system tell nothing about a datagram that nobody here reads: it costs time for each, and the
/// library asks for all of it. What stays is from where it came and, if `to` says so, where it arrived.
fn tell_less(socket: &UdpSocket, to: bool) {
    // Those of the other family are refused.
    let _ = setsockopt(socket, ReceiveTimestampns, &false);
    let _ = setsockopt(socket, IpRecvTos, &false);
    let _ = setsockopt(socket, Ipv6RecvTClass, &false);
    if !to {
        let _ = setsockopt(socket, Ipv4PacketInfo, &false);
        let _ = setsockopt(socket, Ipv6RecvPacketInfo, &false);
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.udp.as_raw_fd()
    }
}

/// Waits for datagrams. It belongs to the runtime that it was made in.
#[derive(Debug)]
pub struct Reader {
    socket: AsyncFd<Arc<Socket>>,
}

impl Reader {
    /// Reads `socket`.
    #[expect(
        deprecated,
        reason = "what took its place is unsafe, because a descriptor could be closed too early; a Socket owns its own"
    )]
    pub fn new(socket: Arc<Socket>) -> io::Result<Self> {
        AsyncFd::with_interest(socket, INTEREST).map(|socket| Self { socket })
    }

    /// The socket.
    pub fn socket(&self) -> &Arc<Socket> {
        self.socket.get_ref()
    }

    /// Waits for datagrams and gives them to `take`, those that came from one peer at once together.
    /// Returns when there are none for now, or when others should have their turn. An error is one of
    /// the socket, such as the news that nobody listens at the other end; what is read goes on
    /// afterwards.
    pub async fn receive(&self, mut take: impl FnMut(Received<'_>)) -> io::Result<()> {
        let mut ready = self.socket.ready(INTEREST).await?;
        batch::with(|batch| {
            for size in batch::sizes().take(TURN) {
                match batch.receive(self.socket(), size, &mut take) {
                    Ok(true) => {}
                    // A call that gets less than it could take has taken all.
                    Ok(false) => {
                        ready.clear_ready();
                        return Ok(());
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
