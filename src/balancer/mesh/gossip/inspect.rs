//! Reads envelopes before chitchat does. chitchat trusts whoever can send to it: a key that begins
//! with a character that is not ASCII, versions that go back, or news of ourselves from elsewhere end
//! its task or corrupt what it knows. What is let through here it can take.
//!
//! An envelope is: magic number (2), protocol version (1), kind (1), then a digest (SYN, SYN-ACK), the
//! cluster's name (SYN) and a delta (SYN-ACK, ACK). Numbers are little-endian; texts have their
//! length (2) in front. Deltas, and digests of protocol version 1, are streams of blocks: kind (1),
//! length (2) and bytes, as they are or compressed with zstd.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use zstd::bulk::Decompressor;

/// The most bytes of a key and its value together. Longer ones would hold up everything that their
/// node posts later.
pub const MAX_POST: usize = 32 * 1024;

const MAGIC: u16 = 45_139;
/// The longest block, before it is compressed.
const MAX_BLOCK: usize = 16_384;
/// The most bytes of one stream once it is decompressed: more than chitchat packs into an envelope of
/// what does not compress absurdly well.
const MAX_STREAM: usize = 16 << 20;
/// The most nodes of a digest, old runs included.
const MAX_NODES: usize = 4096;

/// A run of a node, as chitchat names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Name<'a> {
    node: &'a str,
    generation: u64,
    address: SocketAddr,
}

/// The step of an exchange that an envelope is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A request for what the sender lacks.
    Syn,
    /// The answer to it, and a request in turn.
    SynAck,
    /// The answer to that, or a refusal.
    Ack,
}

/// What an envelope says that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// What it is for.
    pub kind: MessageKind,
    /// Up to which version the sender knows this node's posts, if it says.
    pub known: Option<u64>,
}

/// Reads envelopes. Keeps the buffers for the next one.
pub struct Inspector {
    node: String,
    generation: u64,
    zstd: Option<Decompressor<'static>>,
    stream: Vec<u8>,
    block: Vec<u8>,
}

impl Inspector {
    /// Inspects what is sent to this run of a node.
    pub fn new(node: &str, generation: u64) -> Self {
        let zstd = Decompressor::new().ok();
        Self { node: node.to_owned(), generation, zstd, stream: Vec::new(), block: vec![0; MAX_BLOCK] }
    }

    /// What the envelope says; nothing if chitchat must not see it.
    pub fn inspect(&mut self, envelope: &[u8]) -> Option<Inspected> {
        let mut reader = Reader(envelope);
        (reader.u16()? == MAGIC).then_some(())?;
        let compressed_digest = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let kind = reader.u8()?;
        let (kind, known) = match kind {
            0 => {
                let known = self.digest(&mut reader, compressed_digest)?;
                reader.text()?;
                (MessageKind::Syn, Some(known))
            }
            1 => {
                let known = self.digest(&mut reader, compressed_digest)?;
                self.delta(&mut reader)?;
                (MessageKind::SynAck, Some(known))
            }
            2 => {
                self.delta(&mut reader)?;
                (MessageKind::Ack, None)
            }
            3 => (MessageKind::Ack, None),
            _ => return None,
        };
        reader.0.is_empty().then_some(Inspected { kind, known })
    }

    fn digest(&mut self, reader: &mut Reader<'_>, compressed: bool) -> Option<u64> {
        if compressed {
            self.stream(reader)?;
            let mut entries = Reader(&self.stream);
            let mut known = 0;
            for _ in 0..MAX_NODES {
                if entries.0.is_empty() {
                    return Some(known);
                }
                known = known.max(self.digest_entry(&mut entries)?);
            }
            return None;
        }
        let count = usize::from(reader.u16()?);
        (count <= MAX_NODES).then_some(())?;
        let mut known = 0;
        for _ in 0..count {
            known = known.max(self.digest_entry(reader)?);
        }
        Some(known)
    }

    /// Up to which version the sender knows this node's posts, by an entry of its digest.
    fn digest_entry(&self, reader: &mut Reader<'_>) -> Option<u64> {
        let name = reader.name()?;
        let (_heartbeat, _collected, version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        Some(if self.is_me(&name) { version } else { 0 })
    }

    fn is_me(&self, name: &Name<'_>) -> bool {
        name.node == self.node && name.generation == self.generation
    }

    fn delta(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.stream(reader)?;
        let mut operations = Reader(&self.stream);
        // The version that the present node has come to.
        let mut reached = None;
        let mut nodes = HashSet::new();
        while !operations.0.is_empty() {
            match operations.u8()? {
                0 => {
                    let name = operations.name()?;
                    let (_collected, _from) = (operations.u64()?, operations.u64()?);
                    // Nobody has news of this node before it.
                    (!self.is_me(&name) && nodes.insert(name)).then_some(())?;
                    reached = Some(0);
                }
                1 => {
                    let (key, value) = (operations.text()?, operations.text()?);
                    let (version, status) = (operations.u64()?, operations.u8()?);
                    let grows = reached.is_some_and(|reached| version > reached);
                    (grows && status <= 2 && is_allowed(key) && key.len() + value.len() <= MAX_POST).then_some(())?;
                    reached = Some(version);
                }
                2 => {
                    let version = operations.u64()?;
                    reached.is_some_and(|reached| version >= reached).then_some(())?;
                    reached = Some(version);
                }
                _ => return None,
            }
        }
        Some(())
    }

    /// Decompresses a stream into `self.stream`.
    fn stream(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.stream.clear();
        loop {
            let kind = reader.u8()?;
            if kind == 0 {
                return Some(());
            }
            let length = usize::from(reader.u16()?);
            let bytes = reader.bytes(length)?;
            let block = match kind {
                1 => {
                    let length = self.zstd.as_mut()?.decompress_to_buffer(bytes, &mut self.block[..]).ok()?;
                    &self.block[..length]
                }
                2 => bytes,
                _ => return None,
            };
            (self.stream.len() + block.len() <= MAX_STREAM).then_some(())?;
            self.stream.extend_from_slice(block);
        }
    }
}

/// Whether chitchat can hold a key: its first character must be one byte long.
pub fn is_allowed(key: &str) -> bool {
    key.as_bytes().first().is_some_and(u8::is_ascii)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.u16()?);
        str::from_utf8(self.bytes(length)?).ok()
    }

    fn name(&mut self) -> Option<Name<'a>> {
        let (node, generation) = (self.text()?, self.u64()?);
        let ip: IpAddr = match self.u8()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return None,
        };
        Some(Name { node, generation, address: SocketAddr::new(ip, self.u16()?) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u16).to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn name(node: &str, generation: u64) -> Vec<u8> {
        [&text(node)[..], &generation.to_le_bytes(), &[4, 127, 0, 0, 1, 1, 0]].concat()
    }

    fn node(name_: &str) -> Vec<u8> {
        [&[0][..], &name(name_, 7), &[0; 16]].concat()
    }

    fn post(key: &str, value: &str, version: u64) -> Vec<u8> {
        [&[1][..], &text(key), &text(value), &version.to_le_bytes(), &[0]].concat()
    }

    fn up_to(version: u64) -> Vec<u8> {
        [&[2][..], &version.to_le_bytes()].concat()
    }

    fn stream(content: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        for block in content.chunks(MAX_BLOCK) {
            stream.push(2);
            stream.extend_from_slice(&(block.len() as u16).to_le_bytes());
            stream.extend_from_slice(block);
        }
        stream.push(0);
        stream
    }

    fn envelope(version: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        [&MAGIC.to_le_bytes()[..], &[version, kind], rest].concat()
    }

    fn ack(operations: &[Vec<u8>]) -> Vec<u8> {
        envelope(1, 2, &stream(&operations.concat()))
    }

    fn inspect(envelope: &[u8]) -> Option<Inspected> {
        Inspector::new("me", 7).inspect(envelope)
    }

    #[test]
    fn what_chitchat_makes_is_let_through_and_tells_what_the_sender_knows_of_us() {
        let entry =
            |node: &str, generation| [&name(node, generation)[..], &[0; 16], &[5, 0, 0, 0, 0, 0, 0, 0]].concat();
        let digest = [entry("other", 7), entry("me", 6), entry("me", 7)].concat();
        let plain = [&3_u16.to_le_bytes()[..], &digest, &text("cluster")].concat();
        assert_eq!(inspect(&envelope(0, 0, &plain)), Some(Inspected { kind: MessageKind::Syn, known: Some(5) }));
        let packed = [&stream(&digest)[..], &text("cluster")].concat();
        assert_eq!(inspect(&envelope(1, 0, &packed)), Some(Inspected { kind: MessageKind::Syn, known: Some(5) }));
        let syn_ack = [stream(&entry("other", 7)), stream(&[])].concat();
        assert_eq!(inspect(&envelope(1, 1, &syn_ack)), Some(Inspected { kind: MessageKind::SynAck, known: Some(0) }));
        let posts = [node("other"), post("a", "b", 1), post("c", &"\u{e9}".repeat(9999), 3), up_to(3)];
        assert_eq!(inspect(&ack(&posts)), Some(Inspected { kind: MessageKind::Ack, known: None }));
        assert_eq!(inspect(&envelope(1, 3, &[])), Some(Inspected { kind: MessageKind::Ack, known: None }));
    }

    #[test]
    fn compressed_blocks_are_read_and_overlong_ones_are_refused() {
        let compressed = |content: &[u8]| {
            let block = zstd::bulk::compress(content, 0).unwrap();
            envelope(1, 2, &[&[1][..], &(block.len() as u16).to_le_bytes(), &block, &[0]].concat())
        };
        let posts = [node("other"), post("a", &"b".repeat(10_000), 1)].concat();
        assert!(inspect(&compressed(&posts)).is_some());
        assert!(inspect(&compressed(&vec![0; MAX_BLOCK + 1])).is_none());
        let block = zstd::bulk::compress(&vec![0; MAX_BLOCK], 0).unwrap();
        let bomb = [&[1][..], &(block.len() as u16).to_le_bytes(), &block].concat().repeat(2000);
        assert!(inspect(&envelope(1, 2, &[bomb, vec![0]].concat())).is_none());
    }

    #[test]
    fn what_would_harm_chitchat_is_refused() {
        for operations in [
            vec![node("other"), post("\u{e9}", "b", 1)],
            vec![node("other"), post("", "b", 1)],
            vec![node("other"), post("a", "b", 2), post("c", "d", 2)],
            vec![node("other"), post("a", "b", 2), post("c", "d", 1)],
            vec![node("other"), post("a", "b", 5), up_to(3)],
            vec![node("other"), post("a", &"b".repeat(MAX_POST), 1)],
            vec![node("other"), post("a", "b", 1), node("other")],
            vec![node("me"), post("a", "b", 1)],
            vec![post("a", "b", 1)],
            vec![up_to(1)],
        ] {
            assert!(inspect(&ack(&operations)).is_none(), "{operations:?}");
        }
        let mut trailing = ack(&[node("other")]);
        trailing.push(0);
        assert!(inspect(&trailing).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(version in 0..3_u8, kind in 0..5_u8, rest: Vec<u8>, content: Vec<u8>) {
            let mut inspector = Inspector::new("me", 7);
            let _ = inspector.inspect(&rest);
            let _ = inspector.inspect(&envelope(version, kind, &rest));
            let _ = inspector.inspect(&envelope(version, kind, &stream(&content)));
        }

        #[test]
        fn an_envelope_that_is_cut_short_is_refused(keys in prop::collection::vec("[a-z]{1,9}", 1..5), at: prop::sample::Index) {
            let posts = keys.iter().enumerate().map(|(index, key)| post(key, "value", index as u64 + 1));
            let whole = ack(&[node("other")].into_iter().chain(posts).collect::<Vec<_>>());
            prop_assert!(inspect(&whole).is_some());
            prop_assert!(inspect(&whole[..at.index(whole.len())]).is_none());
        }
    }
}
