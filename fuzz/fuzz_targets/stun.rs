//! Any datagram: no panic, attributes within it, and what was read is written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::stun::{Attribute, Kind, MAGIC_COOKIE, Message, is_dtls_close, is_stun, write};

fuzz_target!(|bytes: &[u8]| {
    let mut with_cookie = bytes.to_vec();
    if let Some(cookie) = with_cookie.get_mut(4..8) {
        cookie.copy_from_slice(&MAGIC_COOKIE);
        with_cookie[0] &= 3;
    }
    for datagram in [bytes, &with_cookie] {
        let kind = Kind::of(datagram);
        assert!(!is_stun(datagram) || kind == Kind::Stun);
        assert!(!is_dtls_close(datagram) || kind == Kind::Dtls);
        let Ok(message) = Message::parse(datagram) else { continue };
        assert!(is_stun(datagram));
        if let Some((receiver, sender)) = message.ufrags() {
            assert_eq!(message.username(), Some(format!("{receiver}:{sender}").as_str()));
        }
        let attributes: Vec<Attribute<'_>> = message.attributes().collect();
        assert!(attributes.iter().map(|(_, value)| 4 + value.len()).sum::<usize>() <= datagram.len());
        let Ok(again) = write(message.class, message.method, message.transaction, &attributes) else { continue };
        let again = Message::parse(&again).expect("what was written is a message");
        assert_eq!((again.class, again.method, again.transaction), (message.class, message.method, message.transaction));
        assert!(again.attributes().eq(attributes));
        assert_eq!(again.use_candidate(), message.use_candidate());
    }
});
