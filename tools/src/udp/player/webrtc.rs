//! A player of WebRTC: offer, STUN, and feedback while packets come.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::UdpSocket,
    time::{Instant, interval_at, timeout},
};

use super::{Counter, drain, socket};
use crate::{
    Result,
    udp::{
        DATAGRAM, STEP, TRIES, http,
        sdp::{self, Credentials},
        stream::{RTP_HEADER, Stamp},
        stun,
    },
};

const CONSENT: Duration = Duration::from_millis(2500);
const REPORT: Duration = Duration::from_secs(1);
/// A receiver report of one source with what SRTCP adds to it (RFC 3550, section 6.4.2), bytes.
const REPORT_SIZE: usize = 32 + 14;

/// What an answer to an offer says.
#[derive(Debug, Clone)]
pub struct Session {
    local: Credentials,
    remote: Credentials,
    /// Where media is to come from.
    pub candidates: Vec<SocketAddr>,
    /// The resource of the session.
    pub location: String,
}

impl Session {
    /// Offers to play `stream` by WHEP.
    pub async fn play(signalling: SocketAddr, stream: &str) -> Result<Self> {
        let local = Credentials::random();
        let path = format!("/rtc/v1/whep/?app=live&stream={stream}");
        let answer = http::request(signalling, "POST", &path, &sdp::offer(&local, false)).await?;
        if answer.status != 201 {
            return Err(format!("the offer was answered with {}: {}", answer.status, answer.body).into());
        }
        let remote = Credentials::of(&answer.body).ok_or("an answer without credentials")?;
        let location = answer.header("location").ok_or("an answer without a resource")?.to_owned();
        Ok(Self { local, remote, candidates: sdp::candidates(&answer.body), location })
    }

    /// Ends the session by its resource.
    pub async fn end(&self, signalling: SocketAddr) -> Result<()> {
        let path = self.location.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let answer = http::request(signalling, "DELETE", path.unwrap_or(&self.location), "").await?;
        if answer.status == 200 { Ok(()) } else { Err(format!("DELETE was answered with {}", answer.status).into()) }
    }

    /// A binding request, as the player's socket sends it.
    pub fn stun(&self, transaction: &stun::Transaction) -> Vec<u8> {
        let username = format!("{}:{}", self.remote.ufrag, self.local.ufrag);
        stun::request(transaction, &username, &self.remote.password)
    }
}

/// A player that has been answered.
pub struct Player {
    session: Session,
    socket: UdpSocket,
}

impl Player {
    /// Sends STUN to `media` until it is answered.
    pub async fn join(session: Session, media: SocketAddr) -> Result<Self> {
        let socket = socket(media).await?;
        let mut buffer = [0; DATAGRAM];
        for _ in 0..TRIES {
            let transaction = rand::random();
            socket.send(&session.stun(&transaction)).await?;
            let answered = async {
                loop {
                    let len = socket.recv(&mut buffer).await?;
                    if stun::is_success_of(&buffer[..len], &transaction) {
                        return Ok::<_, std::io::Error>(());
                    }
                }
            };
            if let Ok(answered) = timeout(STEP, answered).await {
                answered?;
                return Ok(Self { session, socket });
            }
        }
        Err(format!("no answer to STUN from {media}").into())
    }

    /// The session.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Plays. Ends only with an error.
    pub async fn run(self, counter: &Counter) -> Result<()> {
        let mut buffer = [0; DATAGRAM];
        let mut report = vec![0x55; REPORT_SIZE];
        report[..2].copy_from_slice(&[0x81, 201]);
        // Not all at the same moment.
        let phase = REPORT.mul_f64(rand::random());
        let mut reports = interval_at(Instant::now() + phase, REPORT);
        let mut consents = interval_at(Instant::now() + CONSENT.mul_f64(rand::random()), CONSENT);
        loop {
            tokio::select! {
                readable = self.socket.readable() => {
                    readable?;
                    drain(&self.socket, &mut buffer, counter, |datagram, seen| {
                        if datagram.first() == Some(&0x80)
                            && let Some(stamp) = datagram.get(RTP_HEADER..).and_then(Stamp::read)
                        {
                            seen.media(stamp);
                        }
                    })?;
                }
                _ = reports.tick() => self.send(&report, counter).await?,
                _ = consents.tick() => self.send(&self.session.stun(&rand::random()), counter).await?,
            }
        }
    }

    async fn send(&self, datagram: &[u8], counter: &Counter) -> Result<()> {
        self.socket.send(datagram).await?;
        counter.seen().sent += 1;
        Ok(())
    }
}
