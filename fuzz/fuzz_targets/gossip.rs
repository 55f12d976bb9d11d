//! Any bytes as packets of gossip, sealed and not, and as envelopes: no panic, no unbounded memory,
//! and what is sealed comes back whole whatever else arrives between its packets.

#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use srs_proxy::balancer::mesh::gossip::{
    inspect::Inspector,
    packet::{HEADER, Header, MAX_ENVELOPE},
    seal::{Keys, Now, Opener, Sealer},
};

const WALL: u64 = 1_800_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    let now = Now { wall: WALL, monotonic: Instant::now() };
    let _ = Inspector::new("me", 7).inspect(bytes);
    // Behind what every envelope begins with, the fuzzer finds the rest sooner.
    let _ = Inspector::new("me", 7).inspect(&[&[0x53, 0xb0], bytes].concat());

    // What comes from the sealer's own run may take the number of one of its packets.
    let stranger = bytes.get(16..32) != Some(&[1; 16]);
    for secret in [None, Some("a key for fuzzing")] {
        let keys = || Keys::new("cluster", secret);
        let mut opener = Opener::new(keys(), [0; 16]);
        let mut sealer = Sealer::new(&keys(), [1; 16]);
        let envelope = &bytes[..bytes.len().min(MAX_ENVELOPE)];
        let Some(mut cut) = sealer.cut(envelope) else { return };
        let mut complete = None;
        while let Some(packet) = sealer.next(&mut cut, envelope, now) {
            let mut packet = packet.to_vec();
            let mut framed = [&packet[..HEADER], bytes].concat();
            // Another run, so that it does not take the number of the packet that follows.
            framed[16] ^= 0xff;
            framed.truncate(1200);
            let _ = opener.open(&mut framed, now);
            if stranger {
                let _ = opener.open(&mut bytes[..bytes.len().min(1300)].to_vec(), now);
            }
            let opened = opener.open(&mut packet, now).expect("our own packet");
            complete = opened.envelope.map(<[u8]>::to_vec);
        }
        assert_eq!(complete.as_deref(), Some(envelope));
    }
    if let Some(head) = bytes.first_chunk::<HEADER>() {
        assert!(Header::decode(head).is_none_or(|header| header.encode() == *head));
    }
});
