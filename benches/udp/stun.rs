//! STUN as ICE uses it: binding requests and their answers (RFC 8489, RFC 8445).

use std::net::{IpAddr, SocketAddr};

use ring::hmac;

const MAGIC: [u8; 4] = 0x2112_A442_u32.to_be_bytes();
const HEADER: usize = 20;
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;
/// Attributes (RFC 8489, section 18.3; RFC 8445, section 16.1).
const USERNAME: u16 = 0x0006;
const INTEGRITY: u16 = 0x0008;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLING: u16 = 0x802A;
/// What a fingerprint is xored with, and how long it and an integrity are with their headers.
const FINGERPRINT_XOR: u32 = 0x5354_554E;
const FINGERPRINT_SIZE: usize = 8;
const INTEGRITY_SIZE: usize = 24;

/// What tells an answer to one request from those to others.
pub type Transaction = [u8; 12];

/// Whether a datagram is STUN (RFC 7983, section 7).
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && datagram[0] < 4 && datagram[4..8] == MAGIC
}

/// Whether it is the success of this request.
pub fn is_success_of(datagram: &[u8], transaction: &Transaction) -> bool {
    is_stun(datagram) && datagram[..2] == SUCCESS.to_be_bytes() && datagram[8..HEADER] == transaction[..]
}

/// A controlling agent's request with nomination, as a browser sends it to an agent that is ICE-lite.
pub fn request(transaction: &Transaction, username: &str, password: &str) -> Vec<u8> {
    let mut message = header(REQUEST, transaction);
    attribute(&mut message, USERNAME, username.as_bytes());
    attribute(&mut message, ICE_CONTROLLING, &[7; 8]);
    attribute(&mut message, USE_CANDIDATE, &[]);
    attribute(&mut message, PRIORITY, &1_853_824_767_u32.to_be_bytes());
    finish(message, password)
}

/// The answer to a request that came from `client`.
pub fn success(transaction: &Transaction, client: SocketAddr, password: &str) -> Vec<u8> {
    let mut message = header(SUCCESS, transaction);
    let port = (client.port() ^ 0x2112).to_be_bytes();
    let mut value = vec![0, if client.is_ipv4() { 1 } else { 2 }, port[0], port[1]];
    let mask = MAGIC.iter().chain(transaction);
    match client.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
        IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
    }
    attribute(&mut message, XOR_MAPPED_ADDRESS, &value);
    finish(message, password)
}

/// Transaction and user name of a binding request.
pub fn parse_request(datagram: &[u8]) -> Option<(Transaction, &str)> {
    if !is_stun(datagram) || datagram[..2] != REQUEST.to_be_bytes() {
        return None;
    }
    let transaction = datagram[8..HEADER].try_into().ok()?;
    let mut rest = &datagram[HEADER..];
    loop {
        let (head, value) = rest.split_at_checked(4)?;
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if head[..2] == USERNAME.to_be_bytes() {
            return Some((transaction, std::str::from_utf8(value.get(..len)?).ok()?));
        }
        rest = value.get(len.next_multiple_of(4)..)?;
    }
}

/// A message without attributes.
pub fn header(kind: u16, transaction: &Transaction) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend([0, 0]);
    message.extend(MAGIC);
    message.extend(transaction);
    message
}

/// Appends an attribute with its padding, and counts it in the header.
pub fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
    let len = message.len();
    set_length(message, len);
}

/// The attributes that end every message of ICE.
fn finish(mut message: Vec<u8>, password: &str) -> Vec<u8> {
    // Each covers what is before it, under a length that counts itself.
    let len = message.len() + INTEGRITY_SIZE;
    set_length(&mut message, len);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let tag = hmac::sign(&key, &message);
    attribute(&mut message, INTEGRITY, tag.as_ref());

    let len = message.len() + FINGERPRINT_SIZE;
    set_length(&mut message, len);
    let mut crc = flate2::Crc::new();
    crc.update(&message);
    attribute(&mut message, FINGERPRINT, &(crc.sum() ^ FINGERPRINT_XOR).to_be_bytes());
    message
}

fn set_length(message: &mut [u8], total: usize) {
    message[2..4].copy_from_slice(&((total - HEADER) as u16).to_be_bytes());
}
