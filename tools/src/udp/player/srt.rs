//! A player of SRT: a caller in live mode.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use srs_proxy::codec::srt::{
    handshake::{Handshake, MAGIC, Stage},
    is_shutdown, shutdown,
};
use tokio::{
    net::UdpSocket,
    time::{interval_at, timeout},
};

use super::{Counter, drain, socket};
use crate::{
    Result,
    udp::{
        DATAGRAM, STEP, TRIES, srt,
        stream::{SRT_HEADER, Stamp},
    },
};

const FULL_ACK: Duration = Duration::from_millis(10);
const KEEPALIVE: Duration = Duration::from_secs(1);

/// A caller whose handshake is complete.
pub struct Player {
    socket: UdpSocket,
    server: SocketAddr,
    peer: u32,
    next: u32,
    started: Instant,
    hangs_up: bool,
}

/// A caller that ends tells the other side.
impl Drop for Player {
    fn drop(&mut self) {
        if self.hangs_up {
            let _ = self.socket.try_send(&shutdown(self.peer, self.timestamp()));
        }
    }
}

impl Player {
    /// Calls `server` for a stream.
    pub async fn call(server: SocketAddr, stream_id: &str) -> Result<Self> {
        let socket = socket(server).await?;
        let (local, first) = (rand::random::<u32>() >> 2 | 1, rand::random::<u32>() >> 1);
        let mut player = Self { socket, server, peer: 0, next: first, started: Instant::now(), hangs_up: false };
        let induction = srt::induction(local, first, server);
        let is_induction_answer =
            |answer: &Handshake<'_>| answer.stage == Stage::Induction && answer.extension == MAGIC;
        let cookie = player.exchange(local, &induction, is_induction_answer).await?.cookie;
        let conclusion = srt::conclusion(local, first, cookie, stream_id, player.timestamp(), server);
        let answer = player.exchange(local, &conclusion, |answer| answer.stage != Stage::Induction).await?;
        if answer.stage != Stage::Conclusion {
            return Err(format!("the caller was refused: {:?}", answer.stage).into());
        }
        player.peer = answer.socket_id;
        player.hangs_up = true;
        Ok(player)
    }

    /// Ends without a word, as a caller does whose machine lost its power.
    pub fn abandon(mut self) {
        self.hangs_up = false;
    }

    /// Sends the handshake of socket `local` until the answer comes that is waited for, and returns that
    /// answer without its extensions.
    async fn exchange(
        &self,
        local: u32,
        handshake: &[u8],
        is_answer: impl Fn(&Handshake<'_>) -> bool,
    ) -> Result<Handshake<'static>> {
        let mut buffer = [0; DATAGRAM];
        for _ in 0..TRIES {
            self.socket.send(handshake).await?;
            let answer = async {
                loop {
                    let len = self.socket.recv(&mut buffer).await?;
                    let answer = Handshake::parse(&buffer[..len]).ok();
                    if let Some(answer) = answer.filter(|a| a.destination == local && is_answer(a)) {
                        return Ok::<_, std::io::Error>(Handshake { extensions: &[], ..answer });
                    }
                }
            };
            if let Ok(answer) = timeout(STEP, answer).await {
                return Ok(answer?);
            }
        }
        Err(format!("no answer from {} to a handshake", self.server).into())
    }

    /// Plays. Ends only with an error.
    pub async fn run(mut self, counter: &Counter) -> Result<()> {
        let mut buffer = [0; DATAGRAM];
        let phase = FULL_ACK.mul_f64(rand::random());
        let mut acks = interval_at(tokio::time::Instant::now() + phase, FULL_ACK);
        let mut keepalives = interval_at(tokio::time::Instant::now() + KEEPALIVE, KEEPALIVE);
        let (mut acknowledged, mut number) = (self.next, 0);
        loop {
            tokio::select! {
                readable = self.socket.readable() => {
                    readable?;
                    let mut ended = false;
                    drain(&self.socket, &mut buffer, counter, |datagram, seen| {
                        let Some(sequence) = srt::sequence(datagram) else {
                            ended |= is_shutdown(datagram);
                            return;
                        };
                        self.next = sequence.wrapping_add(1) & 0x7FFF_FFFF;
                        if let Some(stamp) = datagram.get(SRT_HEADER..).and_then(Stamp::read) {
                            seen.media(stamp);
                        }
                    })?;
                    if ended {
                        return Err("the other side has shut the session down".into());
                    }
                }
                // Nothing new, nothing to acknowledge.
                _ = acks.tick() => if self.next != acknowledged {
                    acknowledged = self.next;
                    number += 1;
                    self.send(&srt::full_ack(number, self.next, self.timestamp(), self.peer), counter).await?;
                },
                _ = keepalives.tick() => {
                    self.send(&srt::control(srt::KEEPALIVE, 0, self.timestamp(), self.peer), counter).await?;
                }
            }
        }
    }

    async fn send(&self, datagram: &[u8], counter: &Counter) -> Result<()> {
        self.socket.send(datagram).await?;
        counter.seen().sent += 1;
        Ok(())
    }

    fn timestamp(&self) -> u32 {
        self.started.elapsed().as_micros() as u32
    }
}
