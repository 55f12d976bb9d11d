//! Puts envelopes together from their fragments.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::packet::{FRAGMENT, Fragment, MAX_ENVELOPE, RunId};

/// How long the fragments of an envelope may take. One that was lost does not come any more.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most envelopes of one sender in the making.
const MAX_PER_RUN: usize = 8;
/// The most envelopes in the making, at most 4 MB.
const MAX_ENVELOPES: usize = 64;
/// Buffers that are kept for the next envelopes.
const MAX_SPARE: usize = 4;

/// Envelopes in the making, within bounds for each sender and for all.
#[derive(Debug, Default)]
pub struct Reassembly {
    partial: HashMap<(RunId, u32), Partial>,
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Partial {
    since: Instant,
    count: u8,
    /// A bit for each fragment that is there.
    there: u64,
    bytes: Vec<u8>,
    length: usize,
}

/// What became of a fragment.
#[derive(Debug, PartialEq, Eq)]
pub enum Added {
    /// Others are missing still.
    Incomplete,
    /// It was the last one that was missing.
    Complete(Vec<u8>),
    /// It does not fit the others of its envelope.
    Contradiction,
}

impl Reassembly {
    /// Adds a fragment of `run`. Also says how many envelopes were given up for it.
    pub fn add(&mut self, run: RunId, fragment: Fragment, content: &[u8], now: Instant) -> (Added, u64) {
        let key = (run, fragment.envelope);
        let given_up = if self.partial.contains_key(&key) { 0 } else { self.make_room(run, now) };
        let spare = &mut self.spare;
        let partial = self.partial.entry(key).or_insert_with(|| Partial {
            since: now,
            count: fragment.count,
            there: 0,
            bytes: spare.pop().unwrap_or_default(),
            length: 0,
        });
        let bit = 1_u64 << (fragment.index % 64);
        if partial.count != fragment.count || partial.there & bit != 0 {
            return (Added::Contradiction, given_up);
        }
        let start = usize::from(fragment.index) * FRAGMENT;
        let end = start + content.len();
        partial.bytes.resize(partial.bytes.len().max(end), 0);
        partial.bytes[start..end].copy_from_slice(content);
        partial.length = partial.length.max(end);
        partial.there |= bit;
        if partial.there.count_ones() < u32::from(partial.count) {
            return (Added::Incomplete, given_up);
        }
        let Some(Partial { mut bytes, length, .. }) = self.partial.remove(&key) else {
            return (Added::Incomplete, given_up);
        };
        bytes.truncate(length);
        (Added::Complete(bytes), given_up)
    }

    /// Takes back the buffer of a complete envelope.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < MAX_SPARE && buffer.capacity() <= 2 * MAX_ENVELOPE {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    fn make_room(&mut self, run: RunId, now: Instant) -> u64 {
        let before = self.partial.len();
        self.partial.retain(|_, partial| now.saturating_duration_since(partial.since) < PATIENCE);
        if self.partial.keys().filter(|(of, _)| *of == run).count() >= MAX_PER_RUN {
            self.give_up_oldest(|of| *of == run);
        }
        if self.partial.len() >= MAX_ENVELOPES {
            self.give_up_oldest(|_| true);
        }
        (before - self.partial.len()) as u64
    }

    fn give_up_oldest(&mut self, among: impl Fn(&RunId) -> bool) {
        let candidates = self.partial.iter().filter(|((run, _), _)| among(run));
        if let Some(oldest) = candidates.min_by_key(|(_, partial)| partial.since).map(|(key, _)| *key) {
            self.partial.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: RunId = [1; 16];

    fn fragment(envelope: u32, index: u8, count: u8) -> Fragment {
        Fragment { envelope, index, count }
    }

    #[test]
    fn fragments_make_their_envelope_in_any_order_and_beside_others() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let full = [7; FRAGMENT];
        for envelope in [1, 2] {
            for index in [2_u8, 0] {
                let content: &[u8] = if index == 2 { b"end" } else { &full };
                let added = reassembly.add(RUN, fragment(envelope, index, 3), content, now);
                assert_eq!(added, (Added::Incomplete, 0));
            }
        }
        for envelope in [1, 2] {
            let (Added::Complete(whole), 0) = reassembly.add(RUN, fragment(envelope, 1, 3), &full, now) else {
                panic!("not complete")
            };
            assert_eq!(whole, [&full[..], &full, b"end"].concat());
            reassembly.recycle(whole);
        }
        // A buffer that was used before shows nothing of what was in it.
        reassembly.add(RUN, fragment(3, 1, 2), b"x", now);
        let (Added::Complete(whole), _) = reassembly.add(RUN, fragment(3, 0, 2), &[0; FRAGMENT], now) else {
            panic!("not complete")
        };
        assert_eq!(whole, [&[0; FRAGMENT][..], b"x"].concat());
    }

    #[test]
    fn what_is_never_completed_neither_stays_nor_crowds_out_other_senders() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        reassembly.add([2; 16], fragment(0, 0, 2), &[0; FRAGMENT], now);
        for envelope in 0..100 {
            let (_, given_up) = reassembly.add(RUN, fragment(envelope, 0, 2), &[0; FRAGMENT], now);
            assert_eq!(given_up, u64::from(envelope >= MAX_PER_RUN as u32));
        }
        assert_eq!(reassembly.partial.len(), MAX_PER_RUN + 1);
        for sender in 0..100 {
            reassembly.add([sender; 16], fragment(0, 0, 2), &[0; FRAGMENT], now + Duration::from_secs(1));
        }
        assert_eq!(reassembly.partial.len(), MAX_ENVELOPES);
        reassembly.add(RUN, fragment(1000, 0, 2), &[0; FRAGMENT], now + Duration::from_secs(1) + PATIENCE);
        assert_eq!(reassembly.partial.len(), 1);
    }

    #[test]
    fn fragments_that_contradict_each_other_are_told() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        reassembly.add(RUN, fragment(1, 0, 3), &[0; FRAGMENT], now);
        assert_eq!(reassembly.add(RUN, fragment(1, 0, 3), &[1; FRAGMENT], now), (Added::Contradiction, 0));
        assert_eq!(reassembly.add(RUN, fragment(1, 1, 2), b"x", now), (Added::Contradiction, 0));
    }
}
