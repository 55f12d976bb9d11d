//! STUN messages (RFC 8489) as far as a proxy of ICE reads them, and what else arrives on the same
//! socket (RFC 7983). Nothing here checks MESSAGE-INTEGRITY: only the two peers know the password.

#[cfg(test)]
mod tests;

/// Length of the header in bytes (section 5).
pub const HEADER: usize = 20;
/// What every message has at its bytes 4 to 7 (section 5).
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
/// The method of a binding request, and of the answers to it (section 18.2).
pub const BINDING: u16 = 1;
/// The longest USERNAME in bytes (section 14.3).
pub const MAX_USERNAME: usize = 508;

/// Types of attributes (section 18.3, and RFC 8445, section 16.1).
pub mod attribute {
    /// The two fragments of a username, the receiver's first.
    pub const USERNAME: u16 = 0x0006;
    /// The HMAC-SHA1 of what is before it.
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    /// Where the request came from.
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    /// The priority of the pair's candidate.
    pub const PRIORITY: u16 = 0x0024;
    /// The controlling side nominates this pair. It has no value.
    pub const USE_CANDIDATE: u16 = 0x0025;
    /// The CRC-32 of what is before it.
    pub const FINGERPRINT: u16 = 0x8028;
    /// The sender is in the controlled role.
    pub const ICE_CONTROLLED: u16 = 0x8029;
    /// The sender is in the controlling role.
    pub const ICE_CONTROLLING: u16 = 0x802A;
}

/// Why bytes are no STUN message, or a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first bytes are not those of STUN.
    #[error("this is no STUN message")]
    NotStun,
    /// The length in the header is not that of what came.
    #[error("the length of the STUN message is not the one that it declares")]
    Length,
    /// An attribute ends behind the end of the message.
    #[error("an attribute of the STUN message is cut short")]
    Attribute,
    /// More attributes than a message can hold, or a method that it cannot.
    #[error("the STUN message would be too large")]
    TooLarge,
}

/// What kind of message it is (section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// The answer to a request that was granted.
    Success,
    /// The answer to a request that was not.
    Error,
}

/// A message, borrowed from its datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// What kind of message it is.
    pub class: Class,
    /// What it is about. ICE has only [`BINDING`].
    pub method: u16,
    /// What a request and its answer have in common.
    pub transaction: [u8; 12],
    /// The attributes, of which each is whole, save for the padding of the last.
    attributes: &'a [u8],
}

/// Type and value of an attribute.
pub type Attribute<'a> = (u16, &'a [u8]);

/// The attributes of a message in their order.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

/// What a datagram is, by its first byte (RFC 7983, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// 0 to 3. Whether it really is STUN, [`is_stun`] says.
    Stun,
    /// 20 to 63.
    Dtls,
    /// 128 to 191: RTP and RTCP, and their encrypted forms.
    Media,
    /// Any other, and a datagram without a byte.
    Other,
}

impl Kind {
    /// What a datagram is.
    pub fn of(datagram: &[u8]) -> Self {
        match datagram.first() {
            Some(0..=3) => Self::Stun,
            Some(20..=63) => Self::Dtls,
            Some(128..=191) => Self::Media,
            _ => Self::Other,
        }
    }
}

/// Whether a datagram is STUN, by the first byte and the magic cookie.
pub fn is_stun(datagram: &[u8]) -> bool {
    Kind::of(datagram) == Kind::Stun && datagram.get(4..8) == Some(MAGIC_COOKIE.as_slice())
}

/// Whether a datagram holds a DTLS alert `close_notify` that is not encrypted (RFC 6347, section 4.1,
/// and RFC 5246, section 7.2.1). Anybody can send one, so it is no more than a hint.
pub fn is_dtls_close(datagram: &[u8]) -> bool {
    const ALERT: u8 = 21;
    const CLOSE_NOTIFY: u8 = 0;
    let mut rest = datagram;
    while Kind::of(rest) == Kind::Dtls
        && let Some((record, behind)) = rest.split_first_chunk::<13>()
    {
        let [kind, major, _, epoch_high, epoch_low, .., length_high, length_low] = *record;
        let Some((fragment, next)) =
            behind.split_at_checked(usize::from(u16::from_be_bytes([length_high, length_low])))
        else {
            return false;
        };
        let plain_alert = kind == ALERT && major == 0xFE && [epoch_high, epoch_low] == [0, 0];
        if plain_alert && matches!(fragment, [_, CLOSE_NOTIFY]) {
            return true;
        }
        rest = next;
    }
    false
}

impl<'a> Message<'a> {
    /// Reads a datagram. The padding of the last attribute may be missing, whether the header's length
    /// counts it or not; beyond that a datagram is one message and nothing else.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Error> {
        if !is_stun(datagram) {
            return Err(Error::NotStun);
        }
        let Some((head, attributes)) = datagram.split_first_chunk::<HEADER>() else { return Err(Error::Length) };
        let [type_high, type_low, length_high, length_low, _, _, _, _, transaction @ ..] = *head;
        let declared = usize::from(u16::from_be_bytes([length_high, length_low]));
        if declared != attributes.len() && declared != attributes.len().next_multiple_of(4) {
            return Err(Error::Length);
        }
        let mut walk = attributes;
        while !walk.is_empty() {
            (_, walk) = split_attribute(walk).ok_or(Error::Attribute)?;
        }
        let (class, method) = split_type(u16::from_be_bytes([type_high, type_low]));
        Ok(Self { class, method, transaction, attributes })
    }

    /// The attributes in their order.
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { rest: self.attributes }
    }

    /// The value of the first attribute of this type. Later ones do not count (section 14).
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The USERNAME, if there is one and it is well-formed: `RECEIVER:SENDER` in a check of ICE
    /// (RFC 8445, section 7.2.2).
    pub fn username(&self) -> Option<&'a str> {
        let value = self.attribute(attribute::USERNAME)?;
        if value.len() > MAX_USERNAME { None } else { str::from_utf8(value).ok() }
    }

    /// The two fragments of the USERNAME, the receiver's first. Neither is empty.
    pub fn ufrags(&self) -> Option<(&'a str, &'a str)> {
        let (receiver, sender) = self.username()?.split_once(':')?;
        (!receiver.is_empty() && !sender.is_empty()).then_some((receiver, sender))
    }

    /// Whether the controlling side nominates this pair.
    pub fn use_candidate(&self) -> bool {
        self.attribute(attribute::USE_CANDIDATE).is_some()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let (attribute, rest) = split_attribute(self.rest)?;
        self.rest = rest;
        Some(attribute)
    }
}

/// A message with these attributes, each padded with zeros.
pub fn write(class: Class, method: u16, transaction: [u8; 12], attributes: &[Attribute<'_>]) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        let length = u16::try_from(value.len()).map_err(|_| Error::TooLarge)?;
        body.extend_from_slice(&kind.to_be_bytes());
        body.extend_from_slice(&length.to_be_bytes());
        body.extend_from_slice(value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let length = u16::try_from(body.len()).map_err(|_| Error::TooLarge)?;
    let kind = join_type(class, method).ok_or(Error::TooLarge)?;
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&MAGIC_COOKIE);
    message.extend_from_slice(&transaction);
    message.append(&mut body);
    Ok(message)
}

/// The first attribute and what follows it.
fn split_attribute(bytes: &[u8]) -> Option<(Attribute<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let [kind_high, kind_low, length_high, length_low] = *head;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    let value = rest.get(..length)?;
    let rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some(((u16::from_be_bytes([kind_high, kind_low]), value), rest))
}

/// The class is in bits 4 and 8, the method in the other twelve (section 5, figure 3).
fn split_type(kind: u16) -> (Class, u16) {
    let class = match (kind & 0x0100 != 0, kind & 0x0010 != 0) {
        (false, false) => Class::Request,
        (false, true) => Class::Indication,
        (true, false) => Class::Success,
        (true, true) => Class::Error,
    };
    (class, kind & 0x000F | (kind & 0x00E0) >> 1 | (kind & 0x3E00) >> 2)
}

fn join_type(class: Class, method: u16) -> Option<u16> {
    let class = match class {
        Class::Request => 0,
        Class::Indication => 0x0010,
        Class::Success => 0x0100,
        Class::Error => 0x0110,
    };
    // Greater ones would be taken for other protocols (section 18.2).
    (method < 0x100).then_some(class | method & 0x000F | (method & 0x0070) << 1 | (method & 0x0080) << 2)
}
