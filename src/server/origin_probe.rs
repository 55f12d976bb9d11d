//! Reaches an origin over RTMP: connect and handshake, for sessions and for probes alike.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    codec::rtmp::handshake,
    config::Upstream,
    error::{Error, Kind, Result, Side},
    origin::{Origin, Protocol},
    relay::{dial::Dialer, tcp::acknowledge_at_once},
};

/// Whether an origin that failed answers again: connects and shakes hands, no more.
pub(super) async fn probe(origin: &Origin, dialer: &Dialer, settings: &Upstream) -> Result<()> {
    let mut stream = connect(origin, dialer, settings).await?;
    let shaking = async {
        let mut c2 = Vec::new();
        shake_hands(&mut stream, None, &mut c2).await?;
        stream.write_all(&c2).await.map_err(|e| Error::io(Side::Origin, "the handshake", e))
    };
    within(settings.answer_timeout, "the handshake", shaking).await
}

pub(super) async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::origin(Kind::Timeout, format!("{what}: no answer in {limit:?}"))))
}

pub(super) async fn connect(origin: &Origin, dialer: &Dialer, settings: &Upstream) -> Result<TcpStream> {
    let (host, port) = origin
        .address(Protocol::Rtmp)
        .ok_or_else(|| Error::origin(Kind::Connect, "the origin has no RTMP endpoint".to_owned()))?;
    dialer.connect(host, port, settings.connect_timeout).await
}

/// Shakes hands in the simple form. C2 is left in `out`, to be sent with what follows.
pub(super) async fn shake_hands(stream: &mut TcpStream, prefix: Option<&[u8; 7]>, out: &mut Vec<u8>) -> Result<()> {
    let failed = |e| Error::io(Side::Origin, "the handshake", e);
    let hello = handshake::hello(clock_ms(), |bytes| rand::fill(bytes));
    out.extend(prefix.into_iter().flatten());
    out.extend_from_slice(&hello[..]);
    stream.write_all(out).await.map_err(failed)?;
    acknowledge_at_once(stream);

    let mut answer = Box::new([0; handshake::S0S1S2]);
    stream.read_exact(&mut answer[..]).await.map_err(failed)?;
    let c2 = handshake::acknowledge(&answer).map_err(|e| Error::origin(Kind::Protocol, e.to_string()))?;
    out.clear();
    out.extend_from_slice(c2);
    Ok(())
}

/// The clock of handshakes: milliseconds since the process began to speak RTMP (5.2.3).
pub(super) fn clock_ms() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u32
}
