//! Any bytes as an offer, an answer or a fragment: no panic, only our candidates are left, and rewriting
//! twice is rewriting once.

#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::sdp::{Description, ice_pairs, rewrite_candidates};

fuzz_target!(|bytes: &[u8]| {
    let ours: [SocketAddr; 2] = [([192, 0, 2, 1], 8000).into(), ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 8001).into()];
    let whole = [b"v=0\nm=audio 9 X 0\na=ice-ufrag:aaaa\n", bytes].concat();
    for bytes in [bytes, &whole] {
        if let Ok(fragment) = Description::parse_fragment(bytes) {
            let once = rewrite_candidates(&fragment, &ours);
            assert!(candidates(&once).all(is_ours));
        }
        let Ok(description) = Description::parse(bytes) else { continue };
        assert!(!ice_pairs(&description, &description).is_empty());
        let once = rewrite_candidates(&description, &ours);
        assert!(candidates(&once).all(is_ours));
        assert!(candidates(&once).count() >= ours.len());
        let Ok(again) = Description::parse(once.as_bytes()) else {
            // It may have become too long.
            assert!(once.len() > bytes.len());
            continue;
        };
        assert_eq!(rewrite_candidates(&again, &ours), once);
        assert_eq!(ice_pairs(&again, &again), ice_pairs(&description, &description));
    }
});

fn candidates(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("a=candidate:"))
}

fn is_ours(candidate: &str) -> bool {
    candidate.contains(" 192.0.2.1 8000 typ host") || candidate.contains(" 2001:db8::1 8001 typ host")
}
