//! Any bytes as a playlist: no panic, growth within bounds, as many lines as before, and rewriting twice
//! is rewriting once.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::m3u8::{Context, MAX_GROWTH, rewrite};

fuzz_target!(|bytes: &[u8]| {
    let here = Context { name: "p", value: "v/live/s", authorities: &["proxy.example:8080", "o"] };
    for playlist in [bytes.to_vec(), [b"#EXTM3U\n", bytes].concat()] {
        let mut once = Vec::new();
        if rewrite(&playlist, &here, &mut once).is_err() {
            assert!(once.is_empty());
            continue;
        }
        assert!(once.len() <= playlist.len() + MAX_GROWTH);
        let lines = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!(lines(&once), lines(&playlist));
        let mut twice = Vec::new();
        assert_eq!(rewrite(&once, &here, &mut twice), Ok(()));
        assert_eq!(twice, once);
    }
});
