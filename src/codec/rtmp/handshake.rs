//! The handshake (section 5.2), in the simple form and in the digest form that Flash and encoders
//! made after it use (as published in Adobe's RTMP handshake for H.264 playback and in the sources
//! of open servers).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The length of C1, C2, S1 and S2 in bytes.
pub const BLOCK: usize = 1536;
/// The length of C0 and C1.
pub const C0C1: usize = 1 + BLOCK;
/// The length of S0, S1 and S2.
pub const S0S1S2: usize = 1 + 2 * BLOCK;
/// The version byte of plain RTMP.
pub const VERSION: u8 = 3;

const DIGEST: usize = 32;
const CLIENT_KEY: &[u8] = b"Genuine Adobe Flash Player 001";
const SERVER_KEY: &[u8] = b"Genuine Adobe Flash Media Server 001";
/// Follows both keys where the peer's digest is answered.
const KEY_TAIL: [u8; 32] = [
    0xF0, 0xEE, 0xC2, 0x4A, 0x80, 0x68, 0xBE, 0xE8, 0x2E, 0x00, 0xD0, 0xD1, 0x02, 0x9E, 0x7E, 0x57, 0x6E, 0xEC, 0x5D,
    0x2D, 0x29, 0x80, 0x6F, 0xAB, 0x93, 0xB8, 0xE6, 0x36, 0xCF, 0xEB, 0x31, 0xAE,
];

/// Why a handshake fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first byte is not that of plain RTMP: another protocol, or encrypted RTMP.
    #[error("the first byte is {0:#04x}, not 0x03: this is not plain RTMP")]
    Version(u8),
}

/// The form of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Random bytes, echoed.
    Simple,
    /// The random bytes hide a keyed digest.
    Digest,
}

/// Where the digest hides in C1 and S1: its four offset bytes follow the key block, or come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    KeyFirst,
    DigestFirst,
}

impl Scheme {
    fn offset(self, block: &[u8; BLOCK]) -> usize {
        let at = match self {
            Self::KeyFirst => 772,
            Self::DigestFirst => 8,
        };
        let sum: usize = block[at..at + 4].iter().map(|b| usize::from(*b)).sum();
        at + 4 + sum % 728
    }
}

/// Checks the version byte, as soon as it is there.
pub const fn check_version(version: u8) -> Result<(), HandshakeError> {
    if version == VERSION { Ok(()) } else { Err(HandshakeError::Version(version)) }
}

/// S0, S1 and S2 for a client's C0 and C1. `now` is the server's clock in milliseconds; `random`
/// fills bytes.
pub fn answer(
    c0c1: &[u8; C0C1],
    now: u32,
    mut random: impl FnMut(&mut [u8]),
) -> Result<(Box<[u8; S0S1S2]>, Form), HandshakeError> {
    let ([version], c1) = split_first::<1, BLOCK>(c0c1);
    check_version(*version)?;

    let mut out = Box::new([0; S0S1S2]);
    let (s0, blocks) = out.split_at_mut(1);
    let (s1, s2) = blocks.split_at_mut(BLOCK);
    s0[0] = VERSION;
    s1[..4].copy_from_slice(&now.to_be_bytes());
    random(&mut s1[8..]);

    // Simple clients leave bytes 4 to 7 zero (5.2.3).
    let digest = if c1[4..8] == [0; 4] { None } else { find_digest(c1) };
    let Some((scheme, digest)) = digest else {
        s2.copy_from_slice(c1);
        return Ok((out, Form::Simple));
    };

    // Any version from 3.0.1.1 on announces the digest form.
    s1[4..8].copy_from_slice(&[4, 5, 0, 1]);
    if let Ok(s1) = <&mut [u8; BLOCK]>::try_from(s1) {
        let at = scheme.offset(s1);
        let own = digest_around(s1, at, SERVER_KEY);
        s1[at..at + DIGEST].copy_from_slice(&own);
    }
    random(&mut s2[..BLOCK - DIGEST]);
    let key = hmac(&[SERVER_KEY, &KEY_TAIL].concat(), &[&digest]);
    let proof = hmac(&key, &[&s2[..BLOCK - DIGEST]]);
    s2[BLOCK - DIGEST..].copy_from_slice(&proof);
    Ok((out, Form::Digest))
}

/// C0 and C1 in the simple form. `random` fills bytes.
pub fn hello(now: u32, mut random: impl FnMut(&mut [u8])) -> Box<[u8; C0C1]> {
    let mut out = Box::new([0; C0C1]);
    out[0] = VERSION;
    out[1..5].copy_from_slice(&now.to_be_bytes());
    random(&mut out[9..]);
    out
}

/// C2 for a server's S1: its echo (5.2.4).
pub fn acknowledge(s0s1s2: &[u8; S0S1S2]) -> Result<&[u8; BLOCK], HandshakeError> {
    check_version(s0s1s2[0])?;
    let (_, s1) = split_first::<1, BLOCK>(s0s1s2);
    Ok(s1)
}

/// What SRS takes before C0 as the real address of a client: 0xF3, the length, IPv4.
pub const fn real_ip_prefix(address: std::net::Ipv4Addr) -> [u8; 7] {
    let [a, b, c, d] = address.octets();
    [0xF3, 0, 4, a, b, c, d]
}

/// Splits an array that is known to be long enough.
fn split_first<const A: usize, const B: usize>(bytes: &[u8]) -> (&[u8; A], &[u8; B]) {
    const { assert!(A + B <= S0S1S2) };
    match bytes.split_first_chunk::<A>() {
        Some((first, rest)) => match rest.first_chunk::<B>() {
            Some(second) => (first, second),
            None => (first, &[0; B]),
        },
        None => (&[0; A], &[0; B]),
    }
}

fn find_digest(c1: &[u8; BLOCK]) -> Option<(Scheme, [u8; DIGEST])> {
    [Scheme::KeyFirst, Scheme::DigestFirst].into_iter().find_map(|scheme| {
        let at = scheme.offset(c1);
        let digest = digest_around(c1, at, CLIENT_KEY);
        (c1[at..at + DIGEST] == digest).then_some((scheme, digest))
    })
}

fn digest_around(block: &[u8; BLOCK], at: usize, key: &[u8]) -> [u8; DIGEST] {
    hmac(key, &[&block[..at], &block[at + DIGEST..]])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST] {
    // HMAC takes keys of any length; the error type is shared with ciphers that do not.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; DIGEST] };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENTS: [&[u8]; 4] = [
        include_bytes!("../../../tests/fixtures/rtmp/ffmpeg-publish.c2s.bin"),
        include_bytes!("../../../tests/fixtures/rtmp/gstreamer-publish.c2s.bin"),
        include_bytes!("../../../tests/fixtures/rtmp/librtmp-publish.c2s.bin"),
        include_bytes!("../../../tests/fixtures/rtmp/rtmpdump-play.c2s.bin"),
    ];

    fn pattern(bytes: &mut [u8]) {
        for (n, byte) in bytes.iter_mut().enumerate() {
            *byte = (n * 7 + 3) as u8;
        }
    }

    /// What a client of the digest form sends, and how it checks the answer.
    fn digest_hello(scheme: Scheme) -> Box<[u8; C0C1]> {
        let mut c0c1 = hello(5, pattern);
        c0c1[5..9].copy_from_slice(&[0x80, 0, 7, 2]);
        let c1: &mut [u8; BLOCK] = (&mut c0c1[1..]).try_into().unwrap();
        let at = scheme.offset(c1);
        let digest = digest_around(c1, at, CLIENT_KEY);
        c1[at..at + DIGEST].copy_from_slice(&digest);
        c0c1
    }

    #[test]
    fn real_clients_are_answered_and_get_their_own_bytes_back_in_s2() {
        for client in CLIENTS {
            let c0c1: &[u8; C0C1] = client.first_chunk().unwrap();
            let (answer, form) = answer(c0c1, 1, pattern).unwrap();
            assert_eq!(answer[0], VERSION);
            if form == Form::Simple {
                assert_eq!(answer[1 + BLOCK..], c0c1[1..]);
            }
        }
    }

    #[test]
    fn the_digest_form_is_proven_in_both_schemes() {
        for scheme in [Scheme::KeyFirst, Scheme::DigestFirst] {
            let c0c1 = digest_hello(scheme);
            let (answer, form) = answer(&c0c1, 1, pattern).unwrap();
            assert_eq!(form, Form::Digest);

            let (_, s1) = split_first::<1, BLOCK>(&answer[..]);
            let at = scheme.offset(s1);
            assert_eq!(s1[at..at + DIGEST], digest_around(s1, at, SERVER_KEY));

            let c1: &[u8; BLOCK] = c0c1[1..].try_into().unwrap();
            let at = scheme.offset(c1);
            let key = hmac(&[SERVER_KEY, &KEY_TAIL].concat(), &[&c1[at..at + DIGEST]]);
            let s2 = &answer[1 + BLOCK..];
            assert_eq!(s2[BLOCK - DIGEST..], hmac(&key, &[&s2[..BLOCK - DIGEST]]));
        }
    }

    #[test]
    fn a_version_in_c1_without_a_digest_is_answered_in_the_simple_form() {
        let mut c0c1 = hello(5, pattern);
        c0c1[5] = 9;
        let (answer, form) = answer(&c0c1, 1, pattern).unwrap();
        assert_eq!(form, Form::Simple);
        assert_eq!(answer[1 + BLOCK..], c0c1[1..]);
    }

    #[test]
    fn another_protocol_is_refused_at_its_first_byte() {
        let mut c0c1 = hello(5, pattern);
        c0c1[0] = b'G';
        assert_eq!(answer(&c0c1, 1, pattern), Err(HandshakeError::Version(b'G')));
        let mut s = [0; S0S1S2];
        s[0] = 6;
        assert_eq!(acknowledge(&s), Err(HandshakeError::Version(6)));
    }

    #[test]
    fn both_halves_fit_together() {
        let c0c1 = hello(5, pattern);
        let (s0s1s2, _) = answer(&c0c1, 1, pattern).unwrap();
        assert_eq!(acknowledge(&s0s1s2).unwrap()[..], s0s1s2[1..=BLOCK]);
    }
}
