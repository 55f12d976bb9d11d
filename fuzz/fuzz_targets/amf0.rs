//! Any bytes as AMF0 and as commands: no panic, and what was read can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::rtmp::{
    amf0::Decoder,
    command::{Command, patch_stream_id_argument},
    message::kind,
};

fuzz_target!(|bytes: &[u8]| {
    let mut decoder = Decoder::new(bytes);
    while let Ok(Some(value)) = decoder.next_value() {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        let again = Decoder::new(&encoded).next_value().expect("our own encoding").expect("one value");
        // NaN is not equal to itself, but its encoding is.
        let mut twice = Vec::new();
        again.encode(&mut twice);
        assert_eq!(encoded, twice);
    }
    for message_kind in [kind::COMMAND_AMF0, kind::COMMAND_AMF3] {
        if let Ok(command) = Command::parse(message_kind, bytes) {
            assert_eq!(Command::peek_name(message_kind, bytes), Some(command.name.clone()));
            let _ = (command.object_text("tcUrl"), command.first_text(), command.info_text("code"));
        }
        let mut patched = bytes.to_vec();
        patch_stream_id_argument(message_kind, &mut patched, |id| id.wrapping_add(1));
        assert_eq!(patched.len(), bytes.len());
    }
});
