//! Turns envelopes into bytes and back. chitchat can do that, but lets nobody else do it: only its
//! own UDP socket can. So one such socket is kept on the loopback interface, and beside it a tap, to
//! which it sends what shall become bytes, and from which it receives what shall become an envelope.
//! What anybody else sends to either is ignored.

use std::{
    io::{self, ErrorKind},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use chitchat::{
    ChitchatEnvelope, ChitchatMessage, ProtocolVersion,
    transport::{Socket as _, UdpSocket as ChitchatSocket},
};
use tokio::{net::UdpSocket, time::timeout};

/// How long a datagram may take from one end to the other inside this machine.
pub const LIMIT: Duration = Duration::from_millis(500);
/// The longest UDP datagram.
const MAX_DATAGRAM: usize = 65_535;

/// Both ends.
pub struct Codec {
    chitchat: ChitchatSocket,
    chitchat_address: SocketAddr,
    socket: UdpSocket,
    own_address: SocketAddr,
    buffer: Vec<u8>,
}

impl Codec {
    /// Opens both ends and tries them.
    pub async fn open() -> io::Result<Self> {
        match Self::on((Ipv4Addr::LOCALHOST, 0).into()).await {
            Ok(tap) => Ok(tap),
            Err(error) => Self::on((Ipv6Addr::LOCALHOST, 0).into()).await.map_err(|_| error),
        }
    }

    async fn on(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let chitchat = ChitchatSocket::open(address).await.map_err(io::Error::other)?;
        let chitchat_address = chitchat.local_addr().map_err(io::Error::other)?;
        let own_address = socket.local_addr()?;
        let mut opened = Self { chitchat, chitchat_address, socket, own_address, buffer: vec![0; MAX_DATAGRAM] };
        let trial = ChitchatEnvelope { version: ProtocolVersion::V0, message: ChitchatMessage::BadCluster };
        let bytes = opened.encode(trial).await?.to_vec();
        opened.hand_over(&bytes)?;
        timeout(LIMIT, opened.decoded()).await??;
        Ok(opened)
    }

    /// The envelope as bytes.
    pub async fn encode(&mut self, envelope: ChitchatEnvelope) -> io::Result<&[u8]> {
        // What came too late for an envelope before this one.
        while self.socket.try_recv_from(&mut self.buffer).is_ok() {}
        self.chitchat.send(self.own_address, envelope).await.map_err(io::Error::other)?;
        let length = timeout(LIMIT, async {
            loop {
                let (length, from) = self.socket.recv_from(&mut self.buffer).await?;
                if from == self.chitchat_address {
                    return io::Result::Ok(length);
                }
            }
        })
        .await??;
        Ok(&self.buffer[..length])
    }

    /// Hands over bytes, which must be an envelope, to be fetched by [`Self::decoded`].
    pub fn hand_over(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.socket.try_send_to(bytes, self.chitchat_address)?;
        if sent == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// The envelope that was handed over. May be dropped and called again.
    pub async fn decoded(&mut self) -> io::Result<ChitchatEnvelope> {
        loop {
            let received = self.chitchat.recv().await.map_err(io::Error::other)?;
            if received.from_addr == self.own_address {
                return Ok(received.envelope);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::default_trait_access, reason = "chitchat does not let others name a digest")]
    fn envelope() -> ChitchatEnvelope {
        let message = ChitchatMessage::Syn { cluster_id: "cluster".into(), digest: Default::default() };
        ChitchatEnvelope { version: ProtocolVersion::V1, message }
    }

    #[tokio::test]
    async fn an_envelope_becomes_bytes_and_the_same_envelope_again() {
        let mut codec = Codec::open().await.unwrap();
        let bytes = codec.encode(envelope()).await.unwrap().to_vec();
        codec.hand_over(&bytes).unwrap();
        assert_eq!(timeout(LIMIT, codec.decoded()).await.unwrap().unwrap(), envelope());
    }

    #[tokio::test]
    async fn what_others_send_to_either_end_is_ignored() {
        let mut codec = Codec::open().await.unwrap();
        let bytes = codec.encode(envelope()).await.unwrap().to_vec();
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let forged = ChitchatEnvelope { version: ProtocolVersion::V1, message: ChitchatMessage::BadCluster };
        let forged = codec.encode(forged).await.unwrap().to_vec();
        other.send_to(&forged, codec.chitchat_address).await.unwrap();
        other.send_to(&forged, codec.own_address).await.unwrap();
        assert_eq!(codec.encode(envelope()).await.unwrap(), bytes);
        codec.hand_over(&bytes).unwrap();
        assert_eq!(timeout(LIMIT, codec.decoded()).await.unwrap().unwrap(), envelope());
    }
}
