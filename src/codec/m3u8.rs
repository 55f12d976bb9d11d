//! Playlists of HTTP Live Streaming (RFC 8216, and its second edition in draft-pantos-hls-rfc8216bis)
//! as far as a proxy changes them: each URI that leads back to the proxy gets a query parameter, and
//! nothing else changes. Section numbers in this module are RFC 8216's.

mod uri;

#[cfg(test)]
mod tests;

/// How many URIs a playlist may hold. A day of segments of two seconds has 43,200.
pub const MAX_URIS: usize = 100_000;
/// By how many bytes a playlist may grow.
pub const MAX_GROWTH: usize = 16 * 1024 * 1024;

/// What every playlist begins with, save for a byte order mark (section 4.3.1.1).
const HEADER: &str = "#EXTM3U";
/// The tag whose value is no list of attributes but free text (section 4.3.2.1).
const FREE_TEXT: &str = "#EXTINF:";
/// The attribute that holds a URI in every tag that has one.
const URI_ATTRIBUTE: &str = "URI";

/// Where a playlist is passed on, and what its URIs are to carry.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The name of the query parameter.
    pub name: &'a str,
    /// Its value, percent-encoded where a query demands it.
    pub value: &'a str,
    /// `host` or `host:port` of this proxy, as the client names it, and of the origin. URIs that name
    /// one of them lead back to the proxy; those that name another host are none of our business.
    pub authorities: &'a [&'a str],
}

/// Why a playlist is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Playlists are UTF-8 (section 4.1).
    #[error("the playlist is not UTF-8")]
    NotUtf8,
    /// The first line is not that of a playlist.
    #[error("this is no playlist: it does not begin with {HEADER}")]
    NotPlaylist,
    /// More than [`MAX_URIS`].
    #[error("the playlist has more than {MAX_URIS} URIs")]
    TooManyUris,
    /// Grown by more than [`MAX_GROWTH`].
    #[error("the playlist would grow by more than {MAX_GROWTH} bytes")]
    TooMuchGrowth,
}

/// Appends `playlist` to `out`, with the parameter in every URI that leads back to the proxy:
/// relative ones, rooted ones, and those with one of our authorities, which become rooted. The
/// parameter replaces one of the same name, so that rewriting twice is rewriting once. After an error
/// `out` is as it was before.
///
/// URIs are lines of their own, and the quoted attribute `URI` of every tag. One that begins with a
/// variable (`EXT-X-DEFINE` of the second edition) counts as relative. Takes time in proportion to
/// the playlist's length; how long it may be is the caller's decision.
pub fn rewrite(playlist: &[u8], here: &Context<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
    let text = str::from_utf8(playlist).map_err(|_| Error::NotUtf8)?;
    let unmarked = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !unmarked.starts_with(HEADER) {
        return Err(Error::NotPlaylist);
    }

    let start = out.len();
    out.reserve(playlist.len());
    out.extend_from_slice(&playlist[..playlist.len() - unmarked.len()]);
    let mut rewriter = Rewriter { here, out, uris: 0, limit: start + playlist.len() + MAX_GROWTH };
    let done = unmarked.split_inclusive('\n').try_for_each(|line| rewriter.line(line));
    if done.is_err() {
        out.truncate(start);
    }
    done
}

struct Rewriter<'a> {
    here: &'a Context<'a>,
    out: &'a mut Vec<u8>,
    uris: usize,
    /// The length that `out` may have.
    limit: usize,
}

impl Rewriter<'_> {
    /// One line, with the end that it has.
    fn line(&mut self, line: &str) -> Result<(), Error> {
        let content = line.trim_ascii();
        if content.starts_with("#EXT") && !content.starts_with(FREE_TEXT) {
            return self.tag(line);
        }
        if content.is_empty() || content.starts_with('#') {
            self.out.extend_from_slice(line.as_bytes());
            return Ok(());
        }
        let (before, rest) = line.split_at(line.len() - line.trim_ascii_start().len());
        let (_, after) = rest.split_at(content.len());
        self.out.extend_from_slice(before.as_bytes());
        self.uri(content)?;
        self.out.extend_from_slice(after.as_bytes());
        Ok(())
    }

    /// A tag with a list of attributes (section 4.2), or any other that looks like one.
    fn tag(&mut self, line: &str) -> Result<(), Error> {
        let mut written = 0;
        let mut at = line.find(':').map_or(line.len(), |colon| colon + 1);
        while let Some(attribute) = Attribute::next(line, at) {
            at = attribute.end;
            if let Some((from, to)) = attribute.quoted
                && attribute.name == URI_ATTRIBUTE
                && from < to
            {
                self.out.extend_from_slice(&line.as_bytes()[written..from]);
                self.uri(&line[from..to])?;
                written = to;
            }
        }
        self.out.extend_from_slice(&line.as_bytes()[written..]);
        Ok(())
    }

    fn uri(&mut self, uri: &str) -> Result<(), Error> {
        self.uris += 1;
        if self.uris > MAX_URIS {
            return Err(Error::TooManyUris);
        }
        uri::rewrite(uri, self.here, self.out);
        if self.out.len() > self.limit { Err(Error::TooMuchGrowth) } else { Ok(()) }
    }
}

/// `NAME=VALUE` of a tag.
struct Attribute<'a> {
    name: &'a str,
    /// Where a value begins and ends that is nothing but a quoted string, without the quotes.
    quoted: Option<(usize, usize)>,
    /// Where the next attribute begins.
    end: usize,
}

impl<'a> Attribute<'a> {
    /// The attribute that begins at `at`. None at the end of the line, or if a quote is not closed:
    /// whatever follows is not understood, and stays as it is.
    fn next(line: &'a str, at: usize) -> Option<Self> {
        let bytes = line.as_bytes();
        let name_end = at + bytes.get(at..)?.iter().position(|byte| matches!(byte, b'=' | b',' | b'"'))?;
        let name = line[at..name_end].trim_ascii();
        let mut end = name_end;
        let mut quoted = None;
        // A comma separates attributes only outside quotes.
        while let Some(found) = bytes[end..].iter().position(|byte| matches!(byte, b',' | b'"')) {
            let open = end + found;
            if bytes[open] == b',' {
                return Some(Self { name, quoted, end: open + 1 });
            }
            let close = open + 1 + bytes[open + 1..].iter().position(|byte| *byte == b'"')?;
            if open == name_end + 1 && bytes[name_end] == b'=' {
                quoted = Some((open + 1, close));
            }
            end = close + 1;
        }
        Some(Self { name, quoted, end: bytes.len() })
    }
}
