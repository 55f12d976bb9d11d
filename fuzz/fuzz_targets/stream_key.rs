//! Any tcUrl, app and name: no panic, and a key is bounded, printable and shared as it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::stream::{MAX_KEY_LEN, StreamKey, Vhosts};

fuzz_target!(|input: (&str, &str, &str)| {
    let (tc_url, app, name) = input;
    if let Ok(key) = StreamKey::from_rtmp(tc_url, app, name, &Vhosts::any()) {
        assert!(key.as_str().len() <= MAX_KEY_LEN);
        assert!(!key.as_str().chars().any(char::is_control));
        assert_eq!(StreamKey::from_shared(key.as_str()), Ok(key));
    }
});
