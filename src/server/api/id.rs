//! Ids that name one thing in the whole cluster.
//!
//! The ids that SRS gives are unique in one SRS only. In answers of the proxy they carry the origin's
//! tag, as in `6t9956g6.3f0c12ab9e`; what they are made of survives in a URL as it is (RFC 3986, 2.3).
//! A tag follows from the origin's id alone, so that every node reads what any node wrote, and ends
//! with the origin's run, as SRS's own ids do.
//!
//! A vhost has one id in the whole cluster, which follows from its name.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::origin::OriginId;

/// Hexadecimal digits of a tag: among a thousand origins, two have the same one once in two million
/// clusters.
const TAG: usize = 10;
/// What separates the origin's tag from the id that the origin gave.
const SEPARATOR: char = '.';

/// The origin's tag.
pub fn tag(origin: &OriginId) -> String {
    digits(origin.as_str())
}

/// The id, in the whole cluster, of what its origin calls `id`.
pub fn tagged(id: &str, tag: &str) -> String {
    format!("{id}{SEPARATOR}{tag}")
}

/// The id that the origin gave, and the origin's tag, if there is one.
pub fn split(id: &str) -> (&str, Option<&str>) {
    match id.rsplit_once(SEPARATOR) {
        Some((id, tag)) if tag.len() == TAG && tag.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
            (id, Some(tag))
        }
        _ => (id, None),
    }
}

/// The id of the vhost of that name, whatever its origins call it.
pub fn vhost(name: &str) -> String {
    format!("vid-{}", digits(name))
}

fn digits(text: &str) -> String {
    let mut digits = String::with_capacity(TAG);
    for byte in Sha256::digest(text).iter().take(TAG / 2) {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_id_gives_back_its_parts_and_a_plain_one_has_no_tag() {
        let tag = tag(&OriginId::from("vid-548182a-w4cc4303-8789"));
        for id in ["vid-9v09806", "6t9956g6", "a.b", ""] {
            assert_eq!(split(&tagged(id, &tag)), (id, Some(tag.as_str())));
        }
        for plain in ["vid-9v09806", "a.b", "x.3F0C12AB9E", "x.3f0c12ab9", "x.3f0c12ab9e1", "."] {
            assert_eq!(split(plain), (plain, None));
        }
    }

    #[test]
    fn a_tag_is_the_same_on_every_node_and_survives_in_a_url() {
        let origin = OriginId::from("vid-548182a-w4cc4303-8789");
        assert_eq!(tag(&origin), "c1bb330ed1");
        assert_ne!(tag(&origin), tag(&OriginId::from("vid-548182a-w4cc4303-8790")));
        assert!(tagged("6t9956g6", &tag(&origin)).bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)));
    }
}
