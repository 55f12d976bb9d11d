//! At which addresses the client of one session is, and to which of them its media go. Pure: the time
//! comes in.
//!
//! An address is the client's once the origin has granted a binding request (RFC 8489) that came from
//! there with the session's username: only the origin can check that the sender knows the password. Until
//! then it gets no more bytes than came from it, so nobody can have a session sent to somebody else.
//!
//! Media go to the address that the client nominated last (RFC 8445, section 8.1.1). Where the current
//! one is silent, any other that is the client's takes its place as soon as something comes from it: a
//! client that has changed its network need not nominate.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::{
    codec::stun::{self, Class, Message},
    relay::udp::Path,
};

#[cfg(test)]
mod tests;

/// Addresses that are remembered. A client has a few candidates, of which most are silent at length.
const MAX_PEERS: usize = 8;
/// Requests that the origin may still answer.
const MAX_PENDING: usize = 32;
/// How long the current address may be silent until another takes its place.
const SILENCE_BEFORE_SWITCH: Duration = Duration::from_secs(1);

/// Where a session's client is.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Vec<Peer>,
    current: Option<Path>,
    pending: VecDeque<Pending>,
}

#[derive(Debug)]
struct Peer {
    path: Path,
    is_proven: bool,
    /// Bytes that it may still get while it is not.
    allowance: usize,
    heard: Instant,
}

#[derive(Debug)]
struct Pending {
    transaction: [u8; 12],
    path: Path,
    nominates: bool,
}

/// Where a datagram of the origin goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// To this address.
    To(Path),
    /// Nowhere: the client has not shown yet where it is.
    Unknown,
    /// Nowhere: it is more than the address may get before it is proven.
    Unproven,
}

impl Peers {
    /// Takes note of a binding request of `size` bytes with the session's username.
    pub fn request(&mut self, path: Path, request: &Message<'_>, size: usize, now: Instant) {
        self.hear(path, size, now);
        if self.current.is_none_or(|current| !self.is_proven(current)) {
            self.current = Some(path);
        }
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        let (transaction, nominates) = (request.transaction, request.use_candidate());
        self.pending.push_back(Pending { transaction, path, nominates });
    }

    /// Takes note of anything else from an address that has sent such a request.
    pub fn other(&mut self, path: Path, size: usize, now: Instant) {
        let peer = self.hear(path, size, now);
        if peer.is_proven && self.is_silent(now) {
            self.current = Some(path);
        }
    }

    /// Where a datagram of the origin goes.
    pub fn way(&mut self, datagram: &[u8], now: Instant) -> Route {
        let answered = self.answered(datagram, now);
        let Some(path) = answered.or(self.current) else { return Route::Unknown };
        match self.known.iter_mut().find(|peer| peer.path == path) {
            Some(peer) if peer.is_proven => Route::To(path),
            Some(peer) => match peer.allowance.checked_sub(datagram.len()) {
                Some(left) => {
                    peer.allowance = left;
                    Route::To(path)
                }
                None => Route::Unproven,
            },
            None => Route::Unknown,
        }
    }

    /// When something came from the client for the last time.
    pub fn heard(&self) -> Option<Instant> {
        self.known.iter().map(|peer| peer.heard).max()
    }

    /// Whether the client was seen at this address, and that is remembered.
    pub fn knows(&self, path: Path) -> bool {
        self.known.iter().any(|peer| peer.path == path)
    }

    /// From where the request came that the origin answers, if it does. An answer of success proves the
    /// address.
    fn answered(&mut self, datagram: &[u8], now: Instant) -> Option<Path> {
        if !stun::is_stun(datagram) {
            return None;
        }
        let answer = Message::parse(datagram).ok()?;
        let place = self.pending.iter().position(|pending| pending.transaction == answer.transaction)?;
        let Pending { path, nominates, .. } = self.pending.remove(place)?;
        if answer.class == Class::Success
            && let Some(peer) = self.known.iter_mut().find(|peer| peer.path == path)
        {
            peer.is_proven = true;
            if nominates || self.is_silent(now) {
                self.current = Some(path);
            }
        }
        Some(path)
    }

    /// Whether the address to which media go is not, or no longer, where the client is.
    fn is_silent(&self, now: Instant) -> bool {
        let current = self.known.iter().find(|peer| Some(peer.path) == self.current);
        current.is_none_or(|peer| !peer.is_proven || now.saturating_duration_since(peer.heard) >= SILENCE_BEFORE_SWITCH)
    }

    fn is_proven(&self, path: Path) -> bool {
        self.known.iter().any(|peer| peer.path == path && peer.is_proven)
    }

    fn hear(&mut self, path: Path, size: usize, now: Instant) -> &Peer {
        let place = self.known.iter().position(|peer| peer.path == path).unwrap_or_else(|| {
            self.make_room();
            self.known.push(Peer { path, is_proven: false, allowance: 0, heard: now });
            self.known.len() - 1
        });
        let peer = &mut self.known[place];
        peer.heard = now;
        peer.allowance = peer.allowance.saturating_add(size);
        peer
    }

    /// Forgets the address that has been silent the longest, one that nobody has proven first.
    fn make_room(&mut self) {
        if self.known.len() < MAX_PEERS {
            return;
        }
        let others = self.known.iter().enumerate().filter(|(_, peer)| Some(peer.path) != self.current);
        if let Some((place, _)) = others.min_by_key(|(_, peer)| (peer.is_proven, peer.heard)) {
            self.known.remove(place);
        }
    }
}
