//! The extensions that follow a handshake (3.2.1), and of these the stream id (3.2.1.3).

/// The most bytes that a stream id may have (3.2.1.3).
pub const MAX_STREAM_ID: usize = 512;

/// The type of the extension that carries the stream id (table 5).
const STREAM_ID: u16 = 5;

/// One extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its type (table 5).
    pub kind: u16,
    /// Its content, a whole number of 32-bit words.
    pub content: &'a [u8],
}

/// Why extensions make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExtensionError {
    /// Fewer bytes are left than the type and the length of an extension take.
    #[error("{0} bytes stand where the header of an extension should")]
    Header(usize),
    /// An extension says that it is longer than what is left.
    #[error("an extension of type {kind} says that it has {declared} bytes, of which {left} are there")]
    Content {
        /// Its type.
        kind: u16,
        /// The length that it declares, in bytes.
        declared: usize,
        /// The bytes that are there.
        left: usize,
    },
    /// The stream id is empty, or longer than [`MAX_STREAM_ID`].
    #[error("the stream id takes {0} bytes: expected 4 to {MAX_STREAM_ID}")]
    StreamIdLength(usize),
    /// There is more than one stream id.
    #[error("there is more than one stream id")]
    StreamIdRepeated,
}

/// Walks extensions; after an error there is nothing more.
#[derive(Debug, Clone)]
pub struct Extensions<'a>(&'a [u8]);

impl<'a> Extensions<'a> {
    /// Walks what follows a handshake's fields.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The stream id, if there is one. Every extension is looked at, so that what is passed on is
    /// known to be whole.
    pub fn stream_id(self) -> Result<Option<String>, ExtensionError> {
        let mut found = None;
        for extension in self {
            let Extension { kind, content } = extension?;
            if kind == STREAM_ID && found.replace(read_stream_id(content)?).is_some() {
                return Err(ExtensionError::StreamIdRepeated);
            }
        }
        Ok(found)
    }
}

impl<'a> Iterator for Extensions<'a> {
    type Item = Result<Extension<'a>, ExtensionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let Some((&[a, b, c, d], rest)) = bytes.split_first_chunk() else {
            return Some(Err(ExtensionError::Header(bytes.len())));
        };
        let kind = u16::from_be_bytes([a, b]);
        let declared = usize::from(u16::from_be_bytes([c, d])) * 4;
        let Some((content, rest)) = rest.split_at_checked(declared) else {
            return Some(Err(ExtensionError::Content { kind, declared, left: rest.len() }));
        };
        self.0 = rest;
        Some(Ok(Extension { kind, content }))
    }
}

/// Appends an extension that carries `id`. What exceeds [`MAX_STREAM_ID`] is cut off.
pub fn write_stream_id(id: &str, out: &mut Vec<u8>) {
    let id = &id.as_bytes()[..id.len().min(MAX_STREAM_ID)];
    out.extend_from_slice(&STREAM_ID.to_be_bytes());
    out.extend_from_slice(&(id.len().div_ceil(4) as u16).to_be_bytes());
    for chunk in id.chunks(4) {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        word.reverse();
        out.extend_from_slice(&word);
    }
}

/// Each word has its bytes in reverse (3.2.1.3). As in libsrt the id ends at the first zero.
fn read_stream_id(content: &[u8]) -> Result<String, ExtensionError> {
    if content.is_empty() || content.len() > MAX_STREAM_ID {
        return Err(ExtensionError::StreamIdLength(content.len()));
    }
    let bytes: Vec<u8> =
        content.chunks(4).flat_map(|word| word.iter().rev().copied()).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extension(kind: u16, words: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &words.to_be_bytes(), content].concat()
    }

    #[test]
    fn an_extension_of_0_to_3_bytes_is_an_error_and_not_more() {
        assert_eq!(Extensions::new(&[]).next(), None);
        for len in 1..4 {
            let mut extensions = Extensions::new(&[0, 5, 0][..len]);
            assert_eq!(extensions.next(), Some(Err(ExtensionError::Header(len))));
            assert_eq!(extensions.next(), None);
        }
    }

    #[test]
    fn an_extension_that_is_shorter_than_it_says_is_an_error() {
        let whole = extension(5, 3, b"0123456789ab");
        for len in 4..whole.len() {
            let error = ExtensionError::Content { kind: 5, declared: 12, left: len - 4 };
            assert_eq!(Extensions::new(&whole[..len]).stream_id(), Err(error));
        }
        assert_eq!(Extensions::new(&whole).stream_id().unwrap().unwrap(), "32107654ba98");
        let most = extension(1, u16::MAX, &[0; 8]);
        assert_eq!(
            Extensions::new(&most).next(),
            Some(Err(ExtensionError::Content { kind: 1, declared: 262_140, left: 8 }))
        );
    }

    #[test]
    fn a_stream_id_has_up_to_512_bytes_and_there_is_only_one() {
        let id = |words: usize| extension(5, words as u16, &b"abcd".repeat(words));
        assert_eq!(Extensions::new(&id(128)).stream_id().unwrap().unwrap().len(), MAX_STREAM_ID);
        assert_eq!(Extensions::new(&id(129)).stream_id(), Err(ExtensionError::StreamIdLength(516)));
        assert_eq!(Extensions::new(&id(0)).stream_id(), Err(ExtensionError::StreamIdLength(0)));
        assert_eq!(Extensions::new(&id(1).repeat(2)).stream_id(), Err(ExtensionError::StreamIdRepeated));
    }

    #[test]
    fn a_broken_extension_behind_the_stream_id_is_an_error_all_the_same() {
        let mut bytes = extension(5, 1, b"dcba");
        bytes.extend([0, 1]);
        assert_eq!(Extensions::new(&bytes).stream_id(), Err(ExtensionError::Header(2)));
    }

    proptest! {
        #[test]
        fn every_stream_id_comes_back_as_it_was(id in "[^\0]{1,128}") {
            let mut bytes = extension(1, 1, &[7; 4]);
            write_stream_id(&id, &mut bytes);
            prop_assert_eq!(Extensions::new(&bytes).stream_id(), Ok(Some(id)));
        }

        #[test]
        fn any_bytes_are_walked_to_their_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Extensions::new(&bytes).count() <= bytes.len() / 4 + 1);
            let _ = Extensions::new(&bytes).stream_id();
        }
    }
}
