//! Session descriptions (RFC 8866) as far as a proxy of WebRTC reads and changes them: the fragments of
//! ICE usernames, and the addresses at which the answering side can be reached (RFC 8839). Every other
//! line stays byte by byte, with the end that it has.

mod candidates;
mod ice;

#[cfg(test)]
mod tests;

pub use candidates::rewrite_candidates;
pub use ice::ice_pairs;

/// The longest description in bytes.
pub const MAX_LEN: usize = 256 * 1024;
/// How many lines a description may have.
pub const MAX_LINES: usize = 8192;
/// The longest fragment of a username in bytes (RFC 8839, section 5.4).
pub const MAX_UFRAG: usize = 256;

/// The first line of every description (RFC 8866, section 5.1).
const VERSION: &str = "v=0";

/// Why a description is refused. The texts are for whoever sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_LEN`].
    #[error("the SDP is longer than {MAX_LEN} bytes")]
    TooLong,
    /// More than [`MAX_LINES`].
    #[error("the SDP has more than {MAX_LINES} lines")]
    TooManyLines,
    /// Not UTF-8.
    #[error("the SDP is not UTF-8")]
    NotUtf8,
    /// The first line is not that of a description.
    #[error("this is no SDP: it does not begin with {VERSION}")]
    NoVersion,
    /// It describes no media.
    #[error("the SDP has no m= section")]
    NoMedia,
    /// Nowhere a fragment of a username, without which there is no ICE.
    #[error("the SDP has no a=ice-ufrag")]
    NoUfrag,
    /// A fragment that no STUN request could carry.
    #[error("an a=ice-ufrag of the SDP is not 1 to {MAX_UFRAG} visible ASCII characters without a colon or a hash")]
    BadUfrag,
}

/// A description that is one, or a fragment of one.
#[derive(Debug, Clone, Copy)]
pub struct Description<'a> {
    text: &'a str,
}

impl<'a> Description<'a> {
    /// Reads an offer or an answer of ICE.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let description = Self::bounded(bytes)?;
        if description.lines().next().is_none_or(|line| line.content != VERSION) {
            return Err(Error::NoVersion);
        }
        if !description.lines().any(|line| line.is_media()) {
            return Err(Error::NoMedia);
        }
        let ufrags = ice::Ufrags::of(&description);
        if ufrags.any().is_none() {
            return Err(Error::NoUfrag);
        }
        if ufrags.all().any(|ufrag| !ice::is_ufrag(ufrag)) {
            return Err(Error::BadUfrag);
        }
        Ok(description)
    }

    /// Reads a fragment, as trickle ICE has it (RFC 8840, section 9): it has no first line that would
    /// say so, and possibly no section.
    pub fn parse_fragment(bytes: &'a [u8]) -> Result<Self, Error> {
        let fragment = Self::bounded(bytes)?;
        if ice::Ufrags::of(&fragment).all().all(ice::is_ufrag) { Ok(fragment) } else { Err(Error::BadUfrag) }
    }

    fn bounded(bytes: &'a [u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_LEN {
            return Err(Error::TooLong);
        }
        let text = str::from_utf8(bytes).map_err(|_| Error::NotUtf8)?;
        let description = Self { text };
        if description.lines().nth(MAX_LINES).is_some() {
            return Err(Error::TooManyLines);
        }
        Ok(description)
    }

    fn lines(&self) -> impl Iterator<Item = Line<'a>> + use<'a> {
        self.text.split_inclusive('\n').map(Line::new)
    }

    /// The sections, of which the first is the session's and may have no line.
    fn sections(&self) -> Vec<Vec<Line<'a>>> {
        let mut sections = vec![Vec::new()];
        for line in self.lines() {
            if line.is_media() {
                sections.push(Vec::new());
            }
            if let Some(section) = sections.last_mut() {
                section.push(line);
            }
        }
        sections
    }
}

/// A line and the end that it has: CRLF, or LF as many write it, or none.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    content: &'a str,
    end: &'a str,
}

impl<'a> Line<'a> {
    fn new(line: &'a str) -> Self {
        let content = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        Self { content, end: &line[content.len()..] }
    }

    fn is_media(&self) -> bool {
        self.content.starts_with("m=")
    }

    /// The port of an `m=` line. None if there is none.
    fn media_port(&self) -> Option<u16> {
        let port = self.content.strip_prefix("m=")?.split(' ').nth(1)?;
        // Several ports would be `PORT/COUNT`.
        port.split('/').next()?.parse().ok()
    }
}
