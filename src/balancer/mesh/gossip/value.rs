//! Posts hold bytes, chitchat holds texts: each byte stands as the character of the same number.
//! Names and addresses, most of what is posted, take no more room for it.

use bytes::Bytes;

/// What a posted value begins with. An empty one is a post that was taken back: unlike a deletion,
/// which chitchat tells nobody, it comes in its place among the other posts of its node.
const MARK: char = '=';
/// A post that was taken back.
pub const DELETED: &str = "";

/// A value as chitchat holds it.
pub fn encode(value: &[u8]) -> String {
    std::iter::once(MARK).chain(value.iter().map(|byte| char::from(*byte))).collect()
}

/// The value that chitchat holds; nothing if no node of ours posted it.
pub fn decode(text: &str) -> Option<Bytes> {
    text.strip_prefix(MARK)?.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).as_deref(), Some(&all[..]));
        assert_eq!(decode(&encode(&[])).as_deref(), Some(&[][..]));
        assert_ne!(encode(&[]), DELETED);
        for text in [DELETED, "x", "=\u{100}"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
