//! Any C0 and C1, and any S0, S1 and S2: no panic, and an answer exactly if the version is right.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::rtmp::handshake::{C0C1, S0S1S2, VERSION, acknowledge, answer};

fuzz_target!(|bytes: &[u8]| {
    let mut c0c1 = [0; C0C1];
    let len = bytes.len().min(C0C1);
    c0c1[..len].copy_from_slice(&bytes[..len]);
    let answered = answer(&c0c1, 7, |random| random.fill(0x5A));
    assert_eq!(answered.is_ok(), c0c1[0] == VERSION);

    let mut s0s1s2 = [0; S0S1S2];
    let len = bytes.len().min(S0S1S2);
    s0s1s2[..len].copy_from_slice(&bytes[..len]);
    assert_eq!(acknowledge(&s0s1s2).is_ok(), s0s1s2[0] == VERSION);
});
