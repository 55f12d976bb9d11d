//! The bytes of a packet in front of what is sealed.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | `SG` |
//! | 2 | 1 | version of this format, 1 |
//! | 3 | 1 | 1 if sealed, 0 if not |
//! | 4 | 4 | id of the key |
//! | 8 | 8 | id of the cluster |
//! | 16 | 16 | id of the sender's run |
//! | 32 | 8 | number of the packet in this run, which is also the nonce |
//! | 40 | 8 | when it was sealed, milliseconds since 1970 |
//! | 48 | | one fragment of an envelope, sealed, and 16 bytes that prove it |
//!
//! Numbers are big-endian. A fragment begins with the number of its envelope (4 bytes), its own
//! number in it (1), and the number of all its fragments (1).

/// The longest packet, which no usual network needs to cut up.
pub const MAX_PACKET: usize = 1200;
/// The bytes in front of what is sealed.
pub const HEADER: usize = 48;
/// The bytes that an AEAD adds.
pub const TAG: usize = 16;
/// The bytes in front of a fragment's content.
pub const FRAGMENT_HEADER: usize = 6;
/// The content of every fragment but the last of an envelope.
pub const FRAGMENT: usize = MAX_PACKET - HEADER - FRAGMENT_HEADER - TAG;
/// The longest envelope that the gossip library makes.
pub const MAX_ENVELOPE: usize = 65_507;
/// The most fragments of an envelope.
pub const MAX_FRAGMENTS: usize = MAX_ENVELOPE.div_ceil(FRAGMENT);

const MAGIC: [u8; 2] = *b"SG";
const VERSION: u8 = 1;

/// Which run of a sender a packet comes from. Drawn at random for each run.
pub type RunId = [u8; 16];
/// Which key a packet is sealed with. Tells keys apart, and nothing about them.
pub type KeyId = [u8; 4];
/// Which cluster a packet belongs to.
pub type ClusterTag = [u8; 8];

/// What a packet says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The key; none if the packet is not sealed.
    pub key: Option<KeyId>,
    /// The cluster.
    pub cluster: ClusterTag,
    /// The sender's run.
    pub run: RunId,
    /// The packet's number in that run.
    pub number: u64,
    /// When it was sealed, in milliseconds since 1970.
    pub sealed_at: u64,
}

impl Header {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..2].copy_from_slice(&MAGIC);
        bytes[2] = VERSION;
        bytes[3] = u8::from(self.key.is_some());
        bytes[4..8].copy_from_slice(&self.key.unwrap_or_default());
        bytes[8..16].copy_from_slice(&self.cluster);
        bytes[16..32].copy_from_slice(&self.run);
        bytes[32..40].copy_from_slice(&self.number.to_be_bytes());
        bytes[40..].copy_from_slice(&self.sealed_at.to_be_bytes());
        bytes
    }

    /// The header of a packet; nothing if it is not one of ours.
    pub fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let (key, sealed) = (field(bytes, 4), bytes[3]);
        let known = bytes[..2] == MAGIC && bytes[2] == VERSION && (sealed == 1 || sealed == 0 && key == [0; 4]);
        known.then(|| Self {
            key: (sealed == 1).then_some(key),
            cluster: field(bytes, 8),
            run: field(bytes, 16),
            number: u64::from_be_bytes(field(bytes, 32)),
            sealed_at: u64::from_be_bytes(field(bytes, 40)),
        })
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

/// Which part of which envelope a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// The envelope's number in its sender's run.
    pub envelope: u32,
    /// The fragment's number in the envelope, from 0.
    pub index: u8,
    /// How many fragments the envelope has.
    pub count: u8,
}

impl Fragment {
    /// The fragment's header as bytes.
    pub fn encode(self) -> [u8; FRAGMENT_HEADER] {
        let [a, b, c, d] = self.envelope.to_be_bytes();
        [a, b, c, d, self.index, self.count]
    }

    /// The fragment and its content; nothing if they cannot be part of an envelope.
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[a, b, c, d, index, count], content) = bytes.split_first_chunk::<FRAGMENT_HEADER>()?;
        let fragment = Self { envelope: u32::from_be_bytes([a, b, c, d]), index, count };
        let last = index.checked_add(1)? == count;
        let fits = if last { (1..=FRAGMENT).contains(&content.len()) } else { content.len() == FRAGMENT };
        let length = usize::from(index) * FRAGMENT + content.len();
        (index < count && usize::from(count) <= MAX_FRAGMENTS && fits && length <= MAX_ENVELOPE)
            .then_some((fragment, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written_and_nothing_else_is() {
        let header = Header { key: Some([1, 2, 3, 4]), cluster: [5; 8], run: [6; 16], number: 7, sealed_at: 8 };
        for header in [header, Header { key: None, ..header }] {
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes), Some(header));
            for at in 0..4 {
                let mut other = bytes;
                other[at] ^= 0x80;
                assert_eq!(Header::decode(&other), None, "{at}");
            }
        }
    }

    #[test]
    fn fragments_that_no_envelope_has_are_refused() {
        let encode = |index, count, length: usize| {
            [&Fragment { envelope: 1, index, count }.encode()[..], &vec![0; length]].concat()
        };
        let last = MAX_FRAGMENTS as u8 - 1;
        for (index, count, length) in
            [(0, 1, 1), (0, 1, FRAGMENT), (0, 2, FRAGMENT), (1, 2, 1), (last, last + 1, MAX_ENVELOPE % FRAGMENT)]
        {
            assert!(Fragment::decode(&encode(index, count, length)).is_some(), "{index} {count} {length}");
        }
        for (index, count, length) in [
            (0, 0, 1),
            (1, 1, 1),
            (255, 0, 1),
            (0, 1, 0),
            (0, 1, FRAGMENT + 1),
            (0, 2, 1),
            (0, last + 2, FRAGMENT),
            (last, last + 1, FRAGMENT),
        ] {
            assert!(Fragment::decode(&encode(index, count, length)).is_none(), "{index} {count} {length}");
        }
        assert!(Fragment::decode(&encode(0, 1, 1)[..FRAGMENT_HEADER - 1]).is_none());
    }
}
