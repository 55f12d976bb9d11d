//! Any bytes as messages of gossip, as a peer that holds the key can send them: no panic and no
//! unbounded memory before chitchat sees them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::balancer::mesh::gossip::inspect::Inspector;

fuzz_target!(|bytes: &[u8]| {
    let mut inspector = Inspector::new("me", 7);
    let first = inspector.inspect(bytes);
    // Behind what every envelope begins with, the fuzzer finds the rest sooner.
    for (version, kind) in [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)] {
        let _ = inspector.inspect(&[&[0x53, 0xb0, version, kind], bytes].concat());
    }
    // The buffers that are kept for the next envelope do not change what it says.
    assert_eq!(inspector.inspect(bytes), first);
});
