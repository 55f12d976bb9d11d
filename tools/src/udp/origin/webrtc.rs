//! WebRTC as SRS serves it: signalling, ICE-lite, and each frame as a burst of packets, sent one by one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use super::{Request, Shared, lock, response};
use crate::udp::{
    DATAGRAM,
    sdp::{Credentials, answer},
    stream::{RTP_HEADER, Stamp, bursts, noise},
    stun,
};

/// How long SRS keeps a session that says nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// Players by the local part of their user name.
#[derive(Default)]
pub struct Players(Mutex<HashMap<String, Arc<Player>>>);

struct Player {
    local: Credentials,
    remote_ufrag: String,
    reached: Mutex<Reached>,
}

#[derive(Clone, Copy)]
struct Reached {
    address: Option<SocketAddr>,
    at: Instant,
}

impl Players {
    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Answers WHIP, WHEP and DELETE.
    pub fn signalling(&self, origin: &Shared, request: &Request<'_>) -> String {
        match request.method {
            "POST" => self.offered(origin, request),
            "DELETE" => {
                let session = request.path.split_once("session=").map_or("", |(_, rest)| rest);
                let ufrag = session.split([':', '%', '&']).next().unwrap_or_default();
                let found = lock(&self.0).remove(ufrag).is_some();
                response(if found { "200 OK" } else { "404 Not Found" }, "", "")
            }
            _ => response("405 Method Not Allowed", "", ""),
        }
    }

    fn offered(&self, origin: &Shared, request: &Request<'_>) -> String {
        let Some(remote) = Credentials::of(request.body) else { return response("400 Bad Request", "", "") };
        let remote_ufrag = remote.ufrag;
        let Ok(candidate) = origin.socket.local_addr() else { return response("500 Internal Server Error", "", "") };
        let local = Credentials::random();
        let publishes = request.path.starts_with("/rtc/v1/whip/");
        let body = answer(&local, publishes, candidate);
        let headers = format!(
            "Content-Type: application/sdp\r\nServer: SRS/bench\r\n\
             Location: /rtc/v1/whip/?action=delete&token=t&app=live&stream=s&session={}:{remote_ufrag}\r\n",
            local.ufrag
        );
        let reached = Mutex::new(Reached { address: None, at: Instant::now() });
        let player = Player { local: local.clone(), remote_ufrag, reached };
        lock(&self.0).insert(local.ufrag, Arc::new(player));
        response("201 Created", &headers, &body)
    }

    /// Answers STUN; the rest is the players' feedback, and only counts.
    pub fn received(&self, origin: &Shared, datagram: &[u8], from: SocketAddr) {
        let Some((transaction, username)) = stun::parse_request(datagram) else { return };
        let Some((local, remote)) = username.split_once(':') else { return };
        let Some(player) = lock(&self.0).get(local).cloned() else { return };
        if player.remote_ufrag != remote {
            return;
        }
        *lock(&player.reached) = Reached { address: Some(from), at: Instant::now() };
        origin.send_to(&stun::success(&transaction, from, &player.local.password), from);
    }

    /// Sends the stream to all players, until the origin ends.
    pub fn send(&self, origin: &Shared) {
        let mut packet = noise(DATAGRAM);
        let (start, mut sequence) = (Instant::now(), 0_u32);
        for burst in bursts(origin.kbps) {
            thread::sleep((start + burst.at).saturating_duration_since(Instant::now()));
            if !origin.runs() {
                return;
            }
            for to in self.addresses() {
                for n in 0..burst.packets {
                    let number = sequence.wrapping_add(n as u32);
                    burst.write_header(&mut packet, n, number);
                    Stamp::write(&mut packet[RTP_HEADER..], number);
                    origin.send_to(&packet[..burst.size_of(n)], to);
                }
            }
            sequence = sequence.wrapping_add(burst.packets as u32);
        }
    }

    /// Where those are that have been heard of lately; the others are forgotten.
    fn addresses(&self) -> Vec<SocketAddr> {
        let mut players = lock(&self.0);
        players.retain(|_, player| lock(&player.reached).at.elapsed() < SILENCE);
        players.values().filter_map(|player| lock(&player.reached).address).collect()
    }
}
