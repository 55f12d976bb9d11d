//! Seals packets and opens them. Pure: bytes and the time come in.
//!
//! A key for packets is derived (HKDF, RFC 5869) from the key of the cluster, the cluster's name and
//! the id of the sender's run, so that no two runs share one; within a run the packet's number is the
//! nonce (ChaCha20-Poly1305, RFC 8439). The header is authenticated with the rest.
//!
//! A packet is accepted once: a window over the numbers of each run tells what came before, and a
//! packet whose time differs by more than [`MAX_CLOCK_DIFFERENCE`] from this machine's is refused, so
//! that a node that has restarted, and knows no runs, takes no old recordings. A run is remembered
//! for longer than its packets could be replayed.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{self, HKDF_SHA256, Prk, Salt},
};
use sha2::{Digest, Sha256};

use super::{
    counters::Reason,
    packet::{ClusterTag, FRAGMENT, Fragment, HEADER, Header, KeyId, MAX_ENVELOPE, MAX_PACKET, RunId},
    reassembly::{Added, Reassembly},
    replay::Window,
};

/// How far the clocks of two nodes may differ.
pub const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60);
/// How long a run is remembered after its last packet. No packet of it is young enough then, whichever
/// way the clocks differ.
const RUN_MEMORY: Duration = Duration::from_secs(2 * 60 + 5);
/// The most runs that are remembered, some 700 bytes each.
const MAX_RUNS: usize = 4096;

/// The time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Milliseconds since 1970, as this machine has it.
    pub wall: u64,
    /// A clock that never jumps.
    pub monotonic: Instant,
}

/// Which cluster this is, and the keys that its nodes share.
pub struct Keys {
    cluster: ClusterTag,
    /// The first one seals; all of them open. Without a key nothing is sealed.
    keys: Vec<ClusterKey>,
}

struct ClusterKey {
    id: KeyId,
    prk: Prk,
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Keys {
    /// The keys of a cluster: the first of the secrets is the one to seal with.
    pub fn new<'a>(cluster_id: &str, secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let digest = Sha256::new().chain_update(b"srs-proxy mesh cluster\0").chain_update(cluster_id).finalize();
        let mut cluster = ClusterTag::default();
        cluster.copy_from_slice(&digest[..8]);
        let salt = Salt::new(HKDF_SHA256, cluster_id.as_bytes());
        let keys = secrets.into_iter().filter_map(|secret| {
            let prk = salt.extract(secret.as_bytes());
            let mut id = KeyId::default();
            prk.expand(&[b"srs-proxy gossip key id"], Length(id.len())).and_then(|okm| okm.fill(&mut id)).ok()?;
            Some(ClusterKey { id, prk })
        });
        Self { cluster, keys: keys.collect() }
    }
}

impl ClusterKey {
    fn of_run(&self, run: &RunId) -> Option<LessSafeKey> {
        let info: [&[u8]; 2] = [b"srs-proxy gossip packet", run];
        let okm = self.prk.expand(&info, &CHACHA20_POLY1305).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Cuts envelopes into sealed packets.
pub struct Sealer {
    cluster: ClusterTag,
    run: RunId,
    key: Option<(KeyId, LessSafeKey)>,
    /// The number of the next packet; none once all are used up.
    number: Option<u64>,
    envelope: u32,
    packet: Vec<u8>,
}

/// How far the cutting of an envelope is.
#[derive(Debug)]
pub struct Cut {
    fragment: Fragment,
}

impl Sealer {
    /// Seals for one run. `run` must be random, and never be used again.
    pub fn new(keys: &Keys, run: RunId) -> Self {
        let key = keys.keys.first().and_then(|key| Some((key.id, key.of_run(&run)?)));
        let packet = Vec::with_capacity(MAX_PACKET);
        Self { cluster: keys.cluster, run, key, number: Some(0), envelope: 0, packet }
    }

    /// Begins to cut an envelope; nothing if it is empty or too long.
    pub fn cut(&mut self, envelope: &[u8]) -> Option<Cut> {
        if !(1..=MAX_ENVELOPE).contains(&envelope.len()) {
            return None;
        }
        self.envelope = self.envelope.wrapping_add(1);
        let count = u8::try_from(envelope.len().div_ceil(FRAGMENT)).ok()?;
        Some(Cut { fragment: Fragment { envelope: self.envelope, index: 0, count } })
    }

    /// The next packet of an envelope, until there is none.
    pub fn next(&mut self, cut: &mut Cut, envelope: &[u8], now: Now) -> Option<&[u8]> {
        let fragment = cut.fragment;
        if fragment.index >= fragment.count {
            return None;
        }
        cut.fragment.index += 1;
        let start = usize::from(fragment.index) * FRAGMENT;
        let content = envelope.get(start..envelope.len().min(start + FRAGMENT))?;
        let number = self.number?;
        self.number = number.checked_add(1);

        let key = self.key.as_ref().map(|(id, _)| *id);
        let header = Header { key, cluster: self.cluster, run: self.run, number, sealed_at: now.wall }.encode();
        self.packet.clear();
        self.packet.extend_from_slice(&header);
        self.packet.extend_from_slice(&fragment.encode());
        self.packet.extend_from_slice(content);
        if let Some((_, key)) = &self.key {
            let inside = &mut self.packet[HEADER..];
            let tag = key.seal_in_place_separate_tag(nonce(number), Aad::from(header), inside).ok()?;
            self.packet.extend_from_slice(tag.as_ref());
        }
        Some(&self.packet)
    }
}

/// Opens packets and puts envelopes together.
pub struct Opener {
    keys: Keys,
    own_run: RunId,
    runs: HashMap<(RunId, Option<KeyId>), Run>,
    reassembly: Reassembly,
    envelope: Vec<u8>,
}

struct Run {
    key: Option<LessSafeKey>,
    window: Window,
    last: Instant,
}

/// A packet that was accepted.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened<'a> {
    /// The envelope that it completes, if it does.
    pub envelope: Option<&'a [u8]>,
    /// How many other envelopes were given up to make room.
    pub given_up: u64,
}

impl Opener {
    /// Opens what others than `own_run` seal.
    pub fn new(keys: Keys, own_run: RunId) -> Self {
        Self { keys, own_run, runs: HashMap::new(), reassembly: Reassembly::default(), envelope: Vec::new() }
    }

    /// Opens a packet, in place.
    pub fn open<'a>(&'a mut self, packet: &'a mut [u8], now: Now) -> Result<Opened<'a>, Reason> {
        if packet.len() > MAX_PACKET {
            return Err(Reason::Oversize);
        }
        let (head, inside) = packet.split_first_chunk_mut::<HEADER>().ok_or(Reason::Garbage)?;
        let header = Header::decode(head).ok_or(Reason::Garbage)?;
        if header.cluster != self.keys.cluster {
            return Err(Reason::ForeignCluster);
        }
        if header.run == self.own_run {
            return Err(Reason::Own);
        }
        let id = (header.run, header.key);
        let fresh = if self.runs.contains_key(&id) {
            None
        } else {
            Some(Run { key: self.key(&header)?, window: Window::new(header.number), last: now.monotonic })
        };
        let run = fresh.as_ref().or_else(|| self.runs.get(&id)).ok_or(Reason::BadSeal)?;
        let length = match &run.key {
            None => inside.len(),
            Some(key) => {
                let opened = key.open_in_place(nonce(header.number), Aad::from(*head), inside);
                opened.map_err(|_| Reason::BadSeal)?.len()
            }
        };
        let difference = header.sealed_at.abs_diff(now.wall);
        if u128::from(difference) > MAX_CLOCK_DIFFERENCE.as_millis() {
            return Err(Reason::Clock);
        }
        self.admit(id, fresh, header.number, now.monotonic)?;
        let inside: &'a [u8] = inside;
        let (fragment, content) = inside.get(..length).and_then(Fragment::decode).ok_or(Reason::Garbage)?;
        if fragment.count == 1 {
            return Ok(Opened { envelope: Some(content), given_up: 0 });
        }
        let (added, given_up) = self.reassembly.add(header.run, fragment, content, now.monotonic);
        let envelope = match added {
            Added::Contradiction => return Err(Reason::Garbage),
            Added::Incomplete => None,
            Added::Complete(envelope) => {
                let used = std::mem::replace(&mut self.envelope, envelope);
                self.reassembly.recycle(used);
                Some(&self.envelope[..])
            }
        };
        Ok(Opened { envelope, given_up })
    }

    /// The key of a run that is not known yet. Sealed packets are refused where there is no key, and
    /// others where there is one.
    fn key(&self, header: &Header) -> Result<Option<LessSafeKey>, Reason> {
        match header.key {
            None if self.keys.keys.is_empty() => Ok(None),
            None => Err(Reason::BadSeal),
            Some(id) => {
                let mut candidates = self.keys.keys.iter().filter(|key| key.id == id);
                candidates.find_map(|key| key.of_run(&header.run)).map(Some).ok_or(Reason::BadSeal)
            }
        }
    }

    fn admit(
        &mut self,
        id: (RunId, Option<KeyId>),
        fresh: Option<Run>,
        number: u64,
        now: Instant,
    ) -> Result<(), Reason> {
        if let Some(fresh) = fresh {
            if self.runs.len() >= MAX_RUNS {
                self.runs.retain(|_, run| now.saturating_duration_since(run.last) < RUN_MEMORY);
            }
            if self.runs.len() >= MAX_RUNS {
                return Err(Reason::Overflow);
            }
            self.runs.insert(id, fresh);
        }
        let run = self.runs.get_mut(&id).ok_or(Reason::Overflow)?;
        run.last = now;
        if run.window.admit(number) { Ok(()) } else { Err(Reason::Replay) }
    }
}

#[cfg(test)]
mod tests;
