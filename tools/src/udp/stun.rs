//! STUN as a browser and an ICE-lite origin send it: binding requests and their answers
//! (RFC 8489, RFC 8445). The proxy's own codec reads and frames; what only peers do, signing, is here.

use std::net::{IpAddr, SocketAddr};

use ring::hmac;
use srs_proxy::codec::stun::{self, Attribute, BINDING, Class, HEADER, MAGIC_COOKIE, Message, attribute};

/// XORed with the checksum in a FINGERPRINT (RFC 8489, section 14.7).
const FINGERPRINT_XOR: u32 = 0x5354_554E;
/// Lengths of the two attributes that end a message, with their headers, in bytes.
const FINGERPRINT_SIZE: usize = 8;
const INTEGRITY_SIZE: usize = 24;

/// Matches an answer with its request.
pub type Transaction = [u8; 12];

/// Whether a datagram is the success response to this request.
pub fn is_success_of(datagram: &[u8], transaction: &Transaction) -> bool {
    Message::parse(datagram).is_ok_and(|m| m.class == Class::Success && m.transaction == *transaction)
}

/// A controlling agent's request with nomination, as a browser sends it to an agent that is ICE-lite.
pub fn request(transaction: &Transaction, username: &str, password: &str) -> Vec<u8> {
    let attributes = [
        (attribute::USERNAME, username.as_bytes()),
        (attribute::ICE_CONTROLLING, &[7; 8]),
        (attribute::USE_CANDIDATE, &[]),
        (attribute::PRIORITY, &1_853_824_767_u32.to_be_bytes()),
    ];
    sign(message(Class::Request, transaction, &attributes), password)
}

/// The answer to a request that came from `client`.
pub fn success(transaction: &Transaction, client: SocketAddr, password: &str) -> Vec<u8> {
    let port = (client.port() ^ 0x2112).to_be_bytes();
    let mut value = vec![0, if client.is_ipv4() { 1 } else { 2 }, port[0], port[1]];
    let mask = MAGIC_COOKIE.iter().chain(transaction);
    match client.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
        IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
    }
    sign(message(Class::Success, transaction, &[(attribute::XOR_MAPPED_ADDRESS, &value)]), password)
}

/// Transaction and user name of a binding request.
pub fn parse_request(datagram: &[u8]) -> Option<(Transaction, &str)> {
    let message = Message::parse(datagram).ok().filter(|message| message.class == Class::Request)?;
    Some((message.transaction, message.username()?))
}

/// A binding message. Those of this module are small, so writing them does not fail.
pub fn message(class: Class, transaction: &Transaction, attributes: &[Attribute<'_>]) -> Vec<u8> {
    stun::write(class, BINDING, *transaction, attributes).unwrap_or_default()
}

/// Appends MESSAGE-INTEGRITY and FINGERPRINT, which end every message of ICE.
fn sign(mut message: Vec<u8>, password: &str) -> Vec<u8> {
    // Each covers what is before it, under a length that counts itself.
    set_length(&mut message, INTEGRITY_SIZE);
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes());
    let tag = hmac::sign(&key, &message);
    append(&mut message, attribute::MESSAGE_INTEGRITY, tag.as_ref());

    set_length(&mut message, FINGERPRINT_SIZE);
    let mut crc = flate2::Crc::new();
    crc.update(&message);
    append(&mut message, attribute::FINGERPRINT, &(crc.sum() ^ FINGERPRINT_XOR).to_be_bytes());
    message
}

/// Appends an attribute whose value needs no padding.
fn append(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(kind.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

/// Declares the length of what is there and of `more` bytes that follow.
fn set_length(message: &mut [u8], more: usize) {
    let length = (message.len() + more - HEADER) as u16;
    message[2..4].copy_from_slice(&length.to_be_bytes());
}
