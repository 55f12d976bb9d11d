//! Players, one socket each. They receive datagram by datagram, as browsers do: segments that a relay
//! gave to the kernel in one piece (GSO) are cut on the relay's account, not on theirs.

pub mod srt;
pub mod webrtc;

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use socket2::SockRef;
use tokio::net::UdpSocket;

use super::{SOCKET_BUFFER, stream::Stamp};
use crate::Result;

/// What one player has seen.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Datagrams that it received and sent.
    pub received: u64,
    /// Datagrams that it sent.
    pub sent: u64,
    /// Packets of the stream among those received, and their bytes with headers.
    pub media: u64,
    first: Option<u32>,
    last: u32,
    /// From the origin to the player, in microseconds, of each packet of the stream.
    pub delays: Vec<u32>,
}

impl Seen {
    fn media(&mut self, stamp: Stamp) {
        self.media += 1;
        self.first.get_or_insert(stamp.sequence);
        self.last = stamp.sequence;
        self.delays.push(stamp.age().try_into().unwrap_or(u32::MAX));
    }

    /// Packets of the stream that were sent between the first and the last that came, but did not come.
    pub fn lost(&self) -> u64 {
        let sent = self.first.map_or(0, |first| u64::from(self.last.wrapping_sub(first)) + 1);
        sent.saturating_sub(self.media)
    }
}

/// What a player has seen, for those who look while it plays.
#[derive(Debug, Default)]
pub struct Counter(Mutex<Seen>);

impl Counter {
    /// What there was, and begins anew.
    pub fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen())
    }

    /// Packets of the stream so far.
    pub fn media(&self) -> u64 {
        self.seen().media
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of a player of `server`.
async fn socket(server: SocketAddr) -> Result<UdpSocket> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    // The kernel's limit may be lower.
    let _ = SockRef::from(&socket).set_recv_buffer_size(SOCKET_BUFFER);
    socket.connect(server).await?;
    Ok(socket)
}

/// Takes what has come, and shows each datagram.
fn drain(
    socket: &UdpSocket,
    buffer: &mut [u8],
    counter: &Counter,
    mut show: impl FnMut(&[u8], &mut Seen),
) -> Result<()> {
    let mut seen = counter.seen();
    loop {
        match socket.try_recv(buffer) {
            Ok(len) => {
                seen.received += 1;
                show(&buffer[..len], &mut seen);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
