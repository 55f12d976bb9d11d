use proptest::prelude::*;

use super::*;

/// The sample request of RFC 5769, section 2.1.
const SAMPLE: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\
    \x00\x24\x00\x04\x6e\x00\x01\xff\
    \x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
    \x00\x06\x00\x09evtj:h6vY\x20\x20\x20\
    \x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2\
    \x80\x28\x00\x04\xe5\x7a\x3b\xcf";

const TRANSACTION: [u8; 12] = *b"transaction!";

fn request(attributes: &[Attribute<'_>]) -> Vec<u8> {
    write(Class::Request, BINDING, TRANSACTION, attributes).unwrap()
}

/// A header that declares as many bytes of attributes as there are.
fn with_attributes(attributes: &[u8]) -> Vec<u8> {
    let mut message = request(&[]);
    message[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
    message.extend_from_slice(attributes);
    message
}

#[test]
fn the_sample_request_of_rfc_5769_is_read_in_all_its_parts() {
    let message = Message::parse(SAMPLE).unwrap();
    assert_eq!((message.class, message.method), (Class::Request, BINDING));
    assert_eq!(message.transaction, SAMPLE[8..20]);
    assert_eq!(message.username(), Some("evtj:h6vY"));
    assert_eq!(message.ufrags(), Some(("evtj", "h6vY")));
    assert!(!message.use_candidate());
    let kinds: Vec<_> = message.attributes().map(|(kind, value)| (kind, value.len())).collect();
    assert_eq!(
        kinds,
        [
            (0x8022, 16),
            (attribute::PRIORITY, 4),
            (attribute::ICE_CONTROLLED, 8),
            (attribute::USERNAME, 9),
            (attribute::MESSAGE_INTEGRITY, 20),
            (attribute::FINGERPRINT, 4),
        ]
    );
}

#[test]
fn every_class_and_method_survives_the_wire() {
    for class in [Class::Request, Class::Indication, Class::Success, Class::Error] {
        for method in 0..0x100 {
            let bytes = write(class, method, TRANSACTION, &[]).unwrap();
            let message = Message::parse(&bytes).unwrap();
            assert_eq!((message.class, message.method), (class, method));
        }
        assert_eq!(write(class, 0x100, TRANSACTION, &[]), Err(Error::TooLarge));
    }
    assert_eq!(request(&[])[..2], [0, 1]);
    assert_eq!(write(Class::Success, BINDING, TRANSACTION, &[]).unwrap()[..2], [1, 1]);
    assert_eq!(write(Class::Error, BINDING, TRANSACTION, &[]).unwrap()[..2], [1, 0x11]);
    assert_eq!(write(Class::Indication, BINDING, TRANSACTION, &[]).unwrap()[..2], [0, 0x11]);
}

#[test]
fn an_attribute_that_is_cut_short_is_refused_and_the_padding_of_the_last_may_be_missing() {
    let last = [0, 6, 0, 5, b'a', b':', b'b', b'c', b'd'];
    // Neither the header's length nor the datagram holds the padding.
    let unpadded = with_attributes(&last);
    assert_eq!(Message::parse(&unpadded).unwrap().username(), Some("a:bcd"));
    // The header's length holds it, and it did not come.
    let mut promised = unpadded.clone();
    promised[3] = 12;
    assert_eq!(Message::parse(&promised).unwrap().username(), Some("a:bcd"));
    promised[3] = 16;
    assert_eq!(Message::parse(&promised), Err(Error::Length));
    for cut in [&[0][..], &[0, 6], &[0, 6, 0], &[0, 6, 0, 1], &last[..8], &[0, 6, 0xFF, 0xFF, 1, 2, 3, 4]] {
        assert_eq!(Message::parse(&with_attributes(cut)), Err(Error::Attribute), "{cut:?}");
        // The same behind an attribute that is whole.
        let behind = [&[0x80, 0x22, 0, 4, 1, 2, 3, 4], cut].concat();
        assert_eq!(Message::parse(&with_attributes(&behind)), Err(Error::Attribute), "{cut:?}");
    }
}

#[test]
fn every_prefix_of_a_message_is_refused() {
    let nominating = request(&[(attribute::USERNAME, b"abcd:efgh"), (attribute::USE_CANDIDATE, b"")]);
    for message in [SAMPLE, &nominating] {
        for end in 0..message.len() {
            assert!(Message::parse(&message[..end]).is_err(), "{end}");
        }
        assert_eq!(Message::parse(&[message, &[0]].concat()), Err(Error::Length));
        assert!(Message::parse(message).is_ok());
    }
    assert!(Message::parse(&nominating).unwrap().use_candidate());
}

#[test]
fn a_username_counts_only_if_it_is_one() {
    let username = |value: &[u8]| {
        let bytes = request(&[(attribute::USERNAME, value), (attribute::USERNAME, b"later:one")]);
        let message = Message::parse(&bytes).unwrap();
        (message.username().map(str::to_owned), message.ufrags().map(|(a, b)| (a.to_owned(), b.to_owned())))
    };
    let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
    assert_eq!(username(b"a:b"), (Some("a:b".into()), pair("a", "b")));
    assert_eq!(username(b"a:b:c").1, pair("a", "b:c"));
    assert_eq!(username("ü:b".as_bytes()).1, pair("ü", "b"));
    for (value, text) in [(&b""[..], ""), (b"ab", "ab"), (b":b", ":b"), (b"a:", "a:"), (b":", ":")] {
        assert_eq!(username(value), (Some(text.to_owned()), None));
    }
    assert_eq!(username(b"\xff:b"), (None, None));
    assert_eq!(username(&[b'a'; MAX_USERNAME + 1]), (None, None));
    assert!(username(&[b'a'; MAX_USERNAME]).0.is_some());
    assert_eq!(Message::parse(&request(&[])).unwrap().username(), None);
}

#[test]
fn stun_is_told_by_its_first_byte_and_the_magic_cookie() {
    assert!(is_stun(SAMPLE));
    assert!(is_stun(&SAMPLE[..8]));
    assert!(!is_stun(&SAMPLE[..7]));
    let mut other = SAMPLE.to_vec();
    other[0] = 4;
    assert!(!is_stun(&other));
    other[0] = 3;
    assert!(is_stun(&other));
    other[7] = 0x43;
    assert!(!is_stun(&other));
    assert_eq!(Message::parse(&other), Err(Error::NotStun));
}

#[test]
fn the_first_byte_tells_protocols_apart_as_rfc_7983_says() {
    assert_eq!(Kind::of(&[]), Kind::Other);
    for byte in 0..=255u8 {
        let expected = match byte {
            0..=3 => Kind::Stun,
            20..=63 => Kind::Dtls,
            128..=191 => Kind::Media,
            _ => Kind::Other,
        };
        assert_eq!(Kind::of(&[byte]), expected, "{byte}");
    }
}

#[test]
fn only_a_plain_close_notify_is_a_hint_that_dtls_ends() {
    let record = |kind: u8, epoch: u8, fragment: &[u8]| {
        let head = [kind, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 5, 0, fragment.len() as u8];
        [&head[..], fragment].concat()
    };
    let close = record(21, 0, &[1, 0]);
    assert!(is_dtls_close(&close));
    assert!(is_dtls_close(&[record(22, 0, &[1, 2, 3]), close.clone()].concat()));
    for end in 0..close.len() {
        assert!(!is_dtls_close(&close[..end]));
    }
    // Another alert, an encrypted one, no alert.
    for other in [record(21, 0, &[2, 40]), record(21, 1, &[1, 0]), record(22, 0, &[1, 0]), record(21, 0, &[0; 26])] {
        assert!(!is_dtls_close(&other));
    }
    assert!(!is_dtls_close(SAMPLE));
    assert!(!is_dtls_close(&[record(0, 0, &[]), close].concat()), "it does not begin as DTLS does");
}

#[test]
fn a_message_that_no_length_could_tell_is_not_written() {
    let long = vec![0; 70_000];
    for value in [&long[..], &long[..65_532]] {
        assert_eq!(write(Class::Request, BINDING, TRANSACTION, &[(1, value)]), Err(Error::TooLarge));
    }
    assert!(write(Class::Request, BINDING, TRANSACTION, &[(1, &long[..65_528])]).is_ok());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        for datagram in [bytes.clone(), with_attributes(&bytes), [&SAMPLE[..8], &bytes].concat()] {
            let _ = (is_dtls_close(&datagram), Kind::of(&datagram));
            if let Ok(message) = Message::parse(&datagram) {
                let _ = (message.username(), message.ufrags(), message.use_candidate());
                prop_assert!(message.attributes().map(|(_, value)| 4 + value.len()).sum::<usize>() <= datagram.len());
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again(
        method in 0..0x100u16,
        transaction: [u8; 12],
        attributes in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..8),
    ) {
        let attributes: Vec<Attribute<'_>> = attributes.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        let bytes = write(Class::Indication, method, transaction, &attributes).unwrap();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!((message.class, message.method), (Class::Indication, method));
        prop_assert_eq!(message.transaction, transaction);
        prop_assert_eq!(message.attributes().collect::<Vec<_>>(), attributes);
    }
}
