//! Any body and any User-Agent: no panic, and what is accepted can be connected to.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::origin::{Origin, Protocol};

fuzz_target!(|input: (&str, &[u8])| {
    let (software, body) = input;
    if let Ok(origin) = Origin::from_heartbeat(body, software) {
        let (host, port) = origin.address(Protocol::Rtmp).expect("RTMP is mandatory");
        assert!(!host.is_empty() && port > 0);
        assert!(!origin.id().as_str().chars().any(char::is_control));
    }
});
