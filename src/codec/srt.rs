//! SRT (draft-sharabayko-srt-01) as far as a relay needs it: where a packet goes, the handshake, and
//! the stream id. Everything else passes as it came. Section numbers in this module are that
//! document's; where it is silent, libsrt 1.5 is followed.

pub mod extension;
pub mod handshake;
pub mod stream_id;

/// The length of a packet's header in bytes (section 3).
pub const HEADER: usize = 16;
/// The length of a shutdown packet as libsrt sends it: the header, and four bytes that mean nothing.
pub const SHUTDOWN: usize = HEADER + 4;

/// The first bit of a control packet (section 3).
const CONTROL: u16 = 0x8000;
const HANDSHAKE_TYPE: u16 = 0;
const SHUTDOWN_TYPE: u16 = 5;

/// What a packet is (section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It carries data (3.1).
    Data,
    /// It controls the connection (3.2).
    Control {
        /// The control type (table 1).
        control: u16,
        /// The subtype, which only user-defined types have.
        subtype: u16,
    },
}

/// What a packet is, or nothing if it is too short to be any.
pub fn kind(packet: &[u8]) -> Option<Kind> {
    let [a, b, c, d, ..] = *packet.first_chunk::<HEADER>()?;
    let first = u16::from_be_bytes([a, b]);
    if first & CONTROL == 0 {
        return Some(Kind::Data);
    }
    Some(Kind::Control { control: first & !CONTROL, subtype: u16::from_be_bytes([c, d]) })
}

/// The socket id that a packet is for; 0 asks for a connection.
pub fn destination(packet: &[u8]) -> Option<u32> {
    packet.first_chunk::<HEADER>().map(|header| word(header, 12))
}

/// Whether a packet is a handshake (3.2.1), whole or not.
pub fn is_handshake(packet: &[u8]) -> bool {
    matches!(kind(packet), Some(Kind::Control { control: HANDSHAKE_TYPE, .. }))
}

/// Whether a packet ends the connection (3.2.7).
pub fn is_shutdown(packet: &[u8]) -> bool {
    matches!(kind(packet), Some(Kind::Control { control: SHUTDOWN_TYPE, .. }))
}

/// A packet that ends the connection of the socket `destination` (3.2.7). `timestamp` is in
/// microseconds since the connection began.
pub fn shutdown(destination: u32, timestamp: u32) -> [u8; SHUTDOWN] {
    let mut packet = [0; SHUTDOWN];
    packet[..2].copy_from_slice(&(CONTROL | SHUTDOWN_TYPE).to_be_bytes());
    packet[8..12].copy_from_slice(&timestamp.to_be_bytes());
    packet[12..16].copy_from_slice(&destination.to_be_bytes());
    packet
}

/// The 32 bits at `at`, which the caller knows to be there.
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../tests/fixtures/srt/", $name, ".bin")).as_slice()
        };
    }

    #[test]
    fn packets_of_libsrt_are_told_apart() {
        let data = fixture!("plain-data-caller");
        let ack = fixture!("plain-ack-listener");
        let end = fixture!("plain-shutdown-caller");
        let conclusion = fixture!("plain-conclusion-caller");
        assert_eq!(kind(data), Some(Kind::Data));
        assert_eq!(kind(ack), Some(Kind::Control { control: 2, subtype: 0 }));
        assert!(is_handshake(conclusion) && !is_shutdown(conclusion));
        assert!(is_shutdown(end) && !is_handshake(end));
        assert!([data, ack].iter().all(|p| !is_handshake(p) && !is_shutdown(p)));

        // Both sides of one connection: the caller's socket and the listener's.
        assert_eq!(destination(conclusion), Some(0));
        assert_eq!(destination(ack), Some(0x15d2_8ace));
        assert_eq!([destination(data), destination(end)], [Some(0x02c6_375c); 2]);
    }

    #[test]
    fn a_shutdown_is_written_as_libsrt_writes_it() {
        let theirs = fixture!("plain-shutdown-caller");
        let timestamp = u32::from_be_bytes(theirs[8..12].try_into().unwrap());
        let ours = shutdown(0x02c6_375c, timestamp);
        assert_eq!((ours.len(), &ours[..4], &ours[8..]), (theirs.len(), &theirs[..4], &theirs[8..]));
        assert!(is_shutdown(&ours));
    }

    #[test]
    fn what_is_shorter_than_a_header_is_no_packet() {
        let packet = fixture!("plain-shutdown-caller");
        for len in 0..HEADER {
            let cut = &packet[..len];
            assert_eq!((kind(cut), destination(cut)), (None, None));
            assert!(!is_handshake(cut) && !is_shutdown(cut));
        }
    }
}
