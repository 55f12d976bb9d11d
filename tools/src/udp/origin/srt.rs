//! SRT as a listener of libsrt serves it in live mode: handshake, paced data, answers to acknowledgements.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use srs_proxy::codec::srt::{
    destination,
    handshake::{Handshake, Stage},
    is_shutdown,
};

use super::{Shared, lock};
use crate::udp::{
    srt,
    stream::{SRT_HEADER, SRT_PAYLOAD, Stamp, noise, srt_interval},
};

/// How finely libsrt sleeps.
const TIMER: Duration = Duration::from_micros(1500);
/// How long libsrt keeps a peer that says nothing.
const SILENCE: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Players by the socket that the origin has for each.
#[derive(Default)]
pub struct Players {
    known: Mutex<HashMap<u32, Player>>,
    last_socket: AtomicU32,
    cookies: RandomState,
}

struct Player {
    address: SocketAddr,
    socket: u32,
    next: u32,
    message: u32,
    heard: Instant,
}

impl Players {
    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.known).len()
    }

    /// Answers handshakes and acknowledgements.
    pub fn received(&self, origin: &Shared, datagram: &[u8], from: SocketAddr) {
        if let Ok(handshake) = Handshake::parse(datagram) {
            self.greet(origin, &handshake, from);
            return;
        }
        let (Some(kind), Some(destination)) = (srt::control_type(datagram), destination(datagram)) else { return };
        let mut known = lock(&self.known);
        let Some(player) = known.get_mut(&destination).filter(|player| player.address == from) else { return };
        player.heard = Instant::now();
        let peer = player.socket;
        match kind {
            srt::ACK => {
                drop(known);
                let number = srt::specific(datagram).unwrap_or_default();
                // libsrt has no control packet without content.
                let mut answer = srt::control(srt::ACKACK, number, origin.timestamp(), peer);
                answer.extend([0; 4]);
                origin.send_to(&answer, from);
            }
            _ if is_shutdown(datagram) => drop(known.remove(&destination)),
            _ => {}
        }
    }

    fn greet(&self, origin: &Shared, handshake: &Handshake<'_>, from: SocketAddr) {
        let cookie = self.cookies.hash_one(from) as u32;
        let now = origin.timestamp();
        match handshake.stage {
            Stage::Induction => origin.send_to(&handshake.induction_answer(cookie, now), from),
            Stage::Conclusion if handshake.cookie == cookie && matches!(handshake.stream_id(), Ok(Some(_))) => {
                let socket = self.socket_for(handshake, from);
                origin.send_to(&srt::conclusion_answer(handshake, socket, now, from), from);
            }
            _ => {}
        }
    }

    /// The socket for a caller: the same as before, if its handshake comes again.
    fn socket_for(&self, handshake: &Handshake<'_>, from: SocketAddr) -> u32 {
        let mut known = lock(&self.known);
        let again = known.iter().find(|(_, player)| player.address == from && player.socket == handshake.socket_id);
        if let Some((socket, _)) = again {
            return *socket;
        }
        let socket = self.last_socket.fetch_add(1, Relaxed) + 1000;
        let (address, next) = (from, handshake.initial_sequence);
        known.insert(socket, Player { address, socket: handshake.socket_id, next, message: 1, heard: Instant::now() });
        socket
    }

    /// Sends the stream to all players, until the origin ends.
    pub fn send(&self, origin: &Shared) {
        let interval = srt_interval(origin.kbps);
        let mut packet = noise(SRT_HEADER + SRT_PAYLOAD);
        let (start, mut sequence, mut kept_alive) = (Instant::now(), 0_u32, Instant::now());
        while origin.runs() {
            thread::sleep(TIMER);
            let due = (start.elapsed().as_nanos() / interval.as_nanos()) as u32;
            let keepalive = kept_alive.elapsed() >= KEEPALIVE;
            if keepalive {
                kept_alive = Instant::now();
            }
            if due == sequence && !keepalive {
                continue;
            }
            let timestamp = origin.timestamp();
            let mut known = lock(&self.known);
            known.retain(|_, player| player.heard.elapsed() < SILENCE);
            for player in known.values_mut() {
                if keepalive {
                    let keepalive = srt::control(srt::KEEPALIVE, 0, timestamp, player.socket);
                    origin.send_to(&keepalive, player.address);
                }
                for number in sequence..due {
                    srt::write_data_header(&mut packet, player.next, player.message, timestamp, player.socket);
                    Stamp::write(&mut packet[SRT_HEADER..], number);
                    origin.send_to(&packet, player.address);
                    player.next = player.next.wrapping_add(1) & 0x7FFF_FFFF;
                    player.message += 1;
                }
            }
            sequence = due;
        }
    }
}
