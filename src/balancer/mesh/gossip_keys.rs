//! What nodes post on the board: keys and values.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

pub use super::wire::{decode_node, decode_origin, decode_record, encode_node, encode_origin, encode_record};
use crate::{origin::OriginId, stream::StreamKey};

/// Under which a node says what it is.
pub const NODE_KEY: &str = "node";
const PLACE: &str = "place/";
const ORIGIN: &str = "origin/";

/// A key, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    /// What a node says of itself.
    Node,
    /// What it knows of an origin.
    Origin,
    /// Its record of a stream.
    Place(StreamKey),
}

/// The key of a stream's record. Clients choose the names of streams, so nothing of them stands in it
/// as it is.
pub fn place_key(stream: &StreamKey) -> String {
    format!("{PLACE}{}", utf8_percent_encode(stream.as_str(), NON_ALPHANUMERIC))
}

/// The key of what is known of an origin.
pub fn origin_key(id: &OriginId) -> String {
    format!("{ORIGIN}{}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC))
}

/// Takes a key apart; nothing if it is none of ours, as later versions may post more.
pub fn parse_key(key: &str) -> Option<Key> {
    if key == NODE_KEY {
        return Some(Key::Node);
    }
    if key.starts_with(ORIGIN) {
        return Some(Key::Origin);
    }
    let stream = percent_decode_str(key.strip_prefix(PLACE)?).decode_utf8().ok()?;
    StreamKey::from_shared(&stream).ok().map(Key::Place)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn keys_of_any_stream_are_ascii_and_lead_back_to_it(name in "\\PC{1,100}") {
            if let Ok(stream) = StreamKey::from_shared(&format!("v/app/{name}")) {
                let key = place_key(&stream);
                prop_assert!(key.is_ascii());
                prop_assert_eq!(parse_key(&key), Some(Key::Place(stream)));
            }
        }

        #[test]
        fn any_key_is_taken_apart_or_left_alone(key: String) {
            parse_key(&key);
            parse_key(&format!("place/{key}"));
        }
    }
}
