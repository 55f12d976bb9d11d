use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::codec::srt::extension::{Extension, write_stream_id};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/srt/", $name, ".bin")).as_slice()
    };
}

const HANDSHAKES: [&[u8]; 12] = [
    fixture!("plain-induction-caller"),
    fixture!("plain-induction-listener"),
    fixture!("plain-conclusion-caller"),
    fixture!("plain-conclusion-listener"),
    fixture!("passphrase-induction-caller"),
    fixture!("passphrase-induction-listener"),
    fixture!("passphrase-conclusion-caller"),
    fixture!("passphrase-conclusion-listener"),
    fixture!("ipv6-conclusion-caller"),
    fixture!("ipv6-conclusion-listener"),
    fixture!("wrong-passphrase-conclusion-caller"),
    fixture!("wrong-passphrase-rejection-listener"),
];

#[test]
fn handshakes_of_libsrt_come_back_as_they_were() {
    for packet in HANDSHAKES {
        let handshake = Handshake::parse(packet).unwrap();
        assert_eq!(handshake.to_bytes(), packet);
        assert!(handshake.extensions().all(|extension| extension.is_ok()));
        assert_eq!(Packet::copy(packet).unwrap().as_bytes(), packet);
    }
}

#[test]
fn every_prefix_of_a_handshake_is_read_or_refused() {
    for packet in HANDSHAKES {
        for len in 0..packet.len() {
            let read = Handshake::parse(&packet[..len]);
            match len {
                0..HEADER => assert_eq!(read, Err(HandshakeError::Kind)),
                HEADER..LEN => assert_eq!(read, Err(HandshakeError::Short(len))),
                // A cut between two extensions leaves whole ones.
                _ => drop(read.unwrap().stream_id()),
            }
        }
    }
}

#[test]
fn the_stream_ids_of_libsrt_are_read_with_and_without_encryption() {
    let id = |packet| Handshake::parse(packet).unwrap().stream_id().unwrap();
    assert_eq!(id(fixture!("plain-conclusion-caller")).unwrap(), "live/livestream");
    assert_eq!(id(fixture!("ipv6-conclusion-caller")).unwrap(), "live/livestream");
    assert_eq!(id(fixture!("passphrase-conclusion-caller")).unwrap(), "#!::h=example.com,r=live/livestream,m=publish");
    assert_eq!(id(fixture!("plain-conclusion-listener")), None);
    assert_eq!(id(fixture!("plain-induction-caller")), None);
}

#[test]
fn an_extension_that_the_handshake_does_not_announce_does_not_count() {
    let mut handshake = Handshake::parse(fixture!("plain-conclusion-caller")).unwrap();
    handshake.extension &= !CONFIG;
    assert_eq!(handshake.stream_id(), Ok(None));
    handshake.extensions = &handshake.extensions[..3];
    assert_eq!(handshake.stream_id(), Err(ExtensionError::Header(3)));
    handshake.version = OLD_VERSION;
    assert_eq!(handshake.stream_id(), Ok(None));
}

#[test]
fn a_conclusion_with_an_extension_of_0_to_3_bytes_is_read_and_its_extension_refused() {
    let conclusion = fixture!("plain-conclusion-caller");
    assert_eq!(Handshake::parse(&conclusion[..LEN]).unwrap().stream_id(), Ok(None));
    for len in 1..4 {
        let handshake = Handshake::parse(&conclusion[..LEN + len]).unwrap();
        assert_eq!(handshake.stream_id(), Err(ExtensionError::Header(len)));
    }
}

#[test]
fn an_induction_is_answered_as_libsrt_answers_it() {
    for (request, theirs) in [
        (fixture!("plain-induction-caller"), fixture!("plain-induction-listener")),
        // This listener advertises its own key length as well, which is not ours to know.
        (fixture!("passphrase-induction-caller"), fixture!("passphrase-induction-listener")),
    ] {
        let theirs = Handshake { encryption: 0, ..Handshake::parse(theirs).unwrap() };
        let request = Handshake::parse(request).unwrap();
        assert_eq!(request.induction_answer(theirs.cookie, theirs.timestamp), theirs.fields());
    }
}

#[test]
fn a_rejection_is_written_as_libsrt_writes_it() {
    let theirs = fixture!("wrong-passphrase-rejection-listener");
    let request = Handshake::parse(fixture!("wrong-passphrase-conclusion-caller")).unwrap();
    let read = Handshake::parse(theirs).unwrap();
    assert_eq!(read.stage, Stage::Rejected(Reason::BAD_SECRET));
    let mut ours = request.rejection(Reason::BAD_SECRET, read.timestamp);
    // libsrt puts its own socket there.
    ours[40..44].copy_from_slice(&read.socket_id.to_be_bytes());
    assert_eq!(ours, theirs);
    assert_eq!(Stage::Rejected(Reason::DOWN).code(), 2503);
}

#[test]
fn the_induction_of_a_caller_follows_from_its_conclusion() {
    let theirs = fixture!("plain-induction-caller");
    let conclusion = Handshake::parse(fixture!("plain-conclusion-caller")).unwrap();
    let mut ours = conclusion.induction();
    ours[8..12].copy_from_slice(&theirs[8..12]);
    assert_eq!(ours, theirs);
}

#[test]
fn addresses_are_written_as_libsrt_writes_them() {
    let field = |packet| Handshake::parse(packet).unwrap().peer_ip;
    assert_eq!(peer_ip(Ipv4Addr::LOCALHOST.into()), field(fixture!("plain-conclusion-caller")));
    assert_eq!(peer_ip(Ipv6Addr::LOCALHOST.into()), field(fixture!("ipv6-conclusion-caller")));
    let v6: Ipv6Addr = "102:304:506:708:90a:b0c:d0e:f10".parse().unwrap();
    assert_eq!(peer_ip(v6.into()), [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9, 16, 15, 14, 13]);
}

#[test]
fn what_is_set_in_a_packet_leaves_everything_else_as_it_came() {
    let original = fixture!("passphrase-conclusion-caller");
    let mut packet = Packet::copy(original).unwrap();
    packet.set_cookie(0xAABB_CCDD);
    packet.set_destination(7);
    packet.set_peer_ip(Ipv4Addr::new(10, 0, 0, 1).into());
    let before = Handshake::parse(original).unwrap();
    let after = Handshake::parse(packet.as_bytes()).unwrap();
    let expected = Handshake {
        cookie: 0xAABB_CCDD,
        destination: 7,
        peer_ip: peer_ip(Ipv4Addr::new(10, 0, 0, 1).into()),
        ..before
    };
    assert_eq!(after, expected);
    assert!(Packet::copy(&original[..LEN - 1]).is_err());
    assert!(Packet::copy(fixture!("plain-shutdown-caller")).is_err());
}

#[test]
fn every_code_is_a_stage_of_its_own() {
    for code in [0, 1, 2, 999, 1000, 1004, 2503, 0x7FFF_FFFF, 0x8000_0000, DONE, AGREEMENT, CONCLUSION] {
        assert_eq!(Stage::from_code(code).code(), code);
    }
    assert_eq!(Stage::from_code(2404), Stage::Rejected(Reason::NOT_FOUND));
    assert_eq!(Stage::from_code(0x8000_0000), Stage::Other(0x8000_0000));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(
        start in prop_oneof![Just([0x80, 0]), any::<[u8; 2]>()],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&start[..], &rest].concat();
        if let Ok(handshake) = Handshake::parse(&bytes) {
            let written = handshake.to_bytes();
            prop_assert_eq!(Handshake::parse(&written).unwrap(), handshake);
            prop_assert_eq!((written.len(), &written[8..]), (bytes.len(), &bytes[8..]));
            prop_assert!(handshake.induction_answer(1, 2).len() <= bytes.len());
            let _ = handshake.stream_id();
        }
    }

    #[test]
    fn a_stream_id_among_other_extensions_is_found(id in "[ -~]{1,200}", before in 0..4u16, after in 0..4u16) {
        let mut bytes = Handshake::parse(fixture!("plain-conclusion-caller")).unwrap().fields().to_vec();
        for n in 0..before {
            bytes.extend([0, 1, 0, n as u8]);
            bytes.extend([7].repeat(usize::from(n) * 4));
        }
        write_stream_id(&id, &mut bytes);
        (0..after).for_each(|_| bytes.extend([0, 6, 0, 0]));
        let handshake = Handshake::parse(&bytes).unwrap();
        prop_assert_eq!(handshake.extensions().filter_map(Result::ok).count(), usize::from(before + after) + 1);
        prop_assert_eq!(handshake.extensions().last(), Some(Ok(Extension {
            kind: if after > 0 { 6 } else { 5 },
            content: if after > 0 { &[] } else { &bytes[bytes.len() - id.len().div_ceil(4) * 4..] },
        })));
        prop_assert_eq!(handshake.stream_id().unwrap().unwrap(), id);
    }
}
