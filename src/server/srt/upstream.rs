//! The origin's leg of a session: a socket of its own, and the handshake on it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use tokio::time::sleep_until;

use super::{
    Context,
    origin_handshake::{Answer, Next, OriginHandshake, Step},
};
use crate::{
    codec::srt::handshake::Packet,
    error::{Error, Kind, Side, Status},
    metrics::{OriginMetrics, label::Upstream},
    origin::{Origin, Protocol},
    relay::udp::{Reader, Socket},
};

/// How many packets that follow the origin's answer at once are kept until the caller has it.
const MAX_EARLY: usize = 64;

/// Why there is no session.
pub(super) struct Refusal {
    pub error: Error,
    /// What the origin itself said.
    pub packet: Option<Packet>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, packet: None }
    }
}

/// An origin that takes a caller.
pub(super) struct OriginLeg {
    pub reader: Reader,
    /// The origin's socket for this caller.
    pub socket: u32,
    /// What the caller is to hear.
    pub answer: Option<Packet>,
    /// What came right behind the answer.
    pub early: Vec<Box<[u8]>>,
}

/// Asks `origin` to take the caller at `caller`, which sent `conclusion`.
pub(super) async fn open(
    origin: &Origin,
    conclusion: &[u8],
    caller: IpAddr,
    context: &Context,
) -> Result<OriginLeg, Refusal> {
    let (metrics, start) = (context.metrics.origins(Upstream::Srt), Instant::now());
    let leg = open_uncounted(origin, conclusion, caller, context, &metrics).await;
    metrics.answered(leg.as_ref().err().map(|refusal| refusal.error.kind()), start.elapsed());
    leg
}

async fn open_uncounted(
    origin: &Origin,
    conclusion: &[u8],
    caller: IpAddr,
    context: &Context,
    metrics: &OriginMetrics,
) -> Result<OriginLeg, Refusal> {
    let (host, port) =
        origin.address(Protocol::Srt).ok_or_else(|| Error::origin(Kind::Connect, "the origin has no SRT endpoint"))?;
    let addresses = context.dialer.lookup(host, context.upstream.connect_timeout).await?;
    let mut last = Error::origin(Kind::Connect, format!("{host} has no address"));
    for ip in addresses {
        let address = SocketAddr::new(ip, port);
        let start = Instant::now();
        let limit = context.srt.answer_timeout;
        let mut origin_handshake = OriginHandshake::new(conclusion, caller, ip, limit, start)
            .map_err(|error| Error::client(Kind::Protocol, error.to_string()))?;
        let asked = ask(address, &mut origin_handshake).await;
        // What answers the induction is there, whatever it says next.
        let failure = asked.as_ref().err().filter(|_| origin_handshake.step() == Step::Induction).map(Error::kind);
        metrics.connected(failure, start.elapsed());
        match asked {
            Ok((Answer::Accepted { packet, socket }, reader, early)) => {
                return Ok(OriginLeg { reader, socket, answer: Some(packet), early });
            }
            Ok((Answer::Rejected { packet, reason }, ..)) => {
                let status = Status { code: reason.0.to_string(), description: reason.meaning().to_owned() };
                return Err(Refusal { error: Error::refused(Side::Origin, status), packet: Some(packet) });
            }
            Err(error) if error.kind() == Kind::Connect => last = error,
            Err(error) => return Err(error.into()),
        }
    }
    Err(last.into())
}

async fn ask(
    address: SocketAddr,
    origin_handshake: &mut OriginHandshake,
) -> Result<(Answer, Reader, Vec<Box<[u8]>>), Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Error::origin(Kind::Connect, format!("nobody listens for SRT at {address}"))
        }
        _ => Error::origin(Kind::Connect, format!("asking {address}: {error}")),
    };
    let reader = Socket::connect(address).and_then(|socket| Reader::new(Arc::new(socket))).map_err(failed)?;
    let (mut answer, mut early) = (None, Vec::new());
    loop {
        let until = match origin_handshake.poll(Instant::now()) {
            Next::Send(packet) => {
                reader.socket().send(packet).map_err(failed)?;
                continue;
            }
            Next::Wait(until) => until,
            Next::Expired(step) => {
                let text = format!("{address} does not answer the {} of SRT's handshake", step.as_str());
                return Err(Error::origin(Kind::Timeout, text));
            }
        };
        let receive = reader.receive(|received| {
            let now = Instant::now();
            for packet in received.datagrams() {
                if answer.is_none() {
                    answer = origin_handshake.receive(packet, now);
                } else if early.len() < MAX_EARLY {
                    early.push(packet.into());
                }
            }
        });
        tokio::select! {
            received = receive => received.map_err(failed)?,
            () = sleep_until(until.into()) => {}
        }
        if let Some(answer) = answer.take() {
            return Ok((answer, reader, early));
        }
    }
}
