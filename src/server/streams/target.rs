//! What a request for a stream over HTTP asks for.
//!
//! The first rule that applies counts. `VHOST` comes from the query (`vhost=`, `domain=`) or the
//! `Host` header, as everywhere else ([`StreamKey::new`]); extensions may be in upper case.
//!
//! | request | kind | stream |
//! |---|---|---|
//! | any path with `?spstream=VHOST/APP/STREAM` | a playlist if it ends in `.m3u8`, otherwise a piece | the one that is named |
//! | any path with `?spbhid=ID` | the same | the one to which the Go proxy gave the id |
//! | `/APP/STREAM.flv`, `.ts`, `.aac`, `.mp3` | progressive | `VHOST/APP/STREAM` |
//! | `/APP/STREAM/index.m3u8` | playlist | `VHOST/APP/STREAM` |
//! | `/APP/STREAM.m3u8` | playlist | `VHOST/APP/STREAM` |
//! | `/APP/STREAM/index.mpd`, `/APP/STREAM/manifest.mpd` | manifest | `VHOST/APP/STREAM` |
//! | `/APP/STREAM.mpd` | manifest | `VHOST/APP/STREAM` |
//! | `/APP/STREAM/NAME.mp4`, `.m4s`, `.m4v`, `.m4a`, `.cmfv`, `.cmfa` | piece | `VHOST/APP/STREAM` |
//! | `/APP/STREAM-NUMBER.m4s`, `/APP/STREAM-init.mp4`, and the other extensions of these | piece | `VHOST/APP/STREAM` |
//! | anything else | | none; perhaps a file |
//!
//! `APP` may have several parts wherever the last one tells which of them is the stream's. A name that
//! begins with a dot has no extension, so that `/live/.flv` names no stream.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::stream::{StreamError, StreamKey, Vhosts};

#[cfg(test)]
mod tests;

/// The query parameter by which a request names its stream, whatever its path. We put it into
/// playlists, so that any node can serve what they name.
pub const STREAM_PARAMETER: &str = "spstream";
/// The query parameter by which the Go proxy's playlists name it.
pub const ID_PARAMETER: &str = "spbhid";
/// The longest id of the Go proxy in bytes.
pub const MAX_ID_LEN: usize = 128;

/// All that is not unreserved (RFC 3986, section 2.3), save for the slash, which a query may hold.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// How the answer is to be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A stream that goes on for as long as it lasts: HTTP-FLV, HTTP-TS, AAC, MP3.
    Progressive,
    /// A playlist of HLS.
    Playlist,
    /// A manifest of MPEG-DASH.
    Manifest,
    /// A segment, a part, a key: whatever a playlist or manifest names.
    Segment,
}

/// By what a request names its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// By its key.
    Key(StreamKey),
    /// By an id of the Go proxy: 1 to [`MAX_ID_LEN`] letters, digits, `-` and `_`.
    Id(String),
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which stream.
    pub name: Name,
    /// What of it.
    pub kind: Kind,
}

/// Why a request asks for nothing that could be. The texts are for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The value of [`STREAM_PARAMETER`] is no key.
    #[error("{STREAM_PARAMETER} names no stream: {0}")]
    Parameter(StreamError),
    /// The value of [`STREAM_PARAMETER`] is not UTF-8.
    #[error("{STREAM_PARAMETER} is not UTF-8")]
    NotUtf8,
    /// The value of [`ID_PARAMETER`] is none that the Go proxy gives.
    #[error("{ID_PARAMETER} is not an id")]
    Id,
    /// The path would make a key that is none.
    #[error("the path names no stream: {0}")]
    Path(StreamError),
}

impl Target {
    /// What a request asks for, from the path and query of its URI as they are, and its `Host`
    /// header, which may be empty. None if it asks for no stream.
    pub fn of(path: &str, query: Option<&str>, host: &str, vhosts: &Vhosts) -> Result<Option<Self>, TargetError> {
        let query = query.unwrap_or_default();
        let (directory, file) = split_last(path);
        let (stem, extension) = match file.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() => (stem, extension),
            _ => (file, ""),
        };
        let is = |known: &[&str]| known.iter().any(|k| extension.eq_ignore_ascii_case(k));

        if let Some(name) = named(query)? {
            let kind = if is(&["m3u8"]) { Kind::Playlist } else { Kind::Segment };
            return Ok(Some(Self { name, kind }));
        }

        let without_extension = || Cow::Borrowed(&path[..path.len() - 1 - extension.len()]);
        // What is as good as the directory's name, where that is a stream's.
        let nested = |names: &[&str]| names.contains(&stem) && parts(directory) >= 2;
        let (kind, stream) = if is(&["flv", "ts", "aac", "mp3"]) {
            (Kind::Progressive, without_extension())
        } else if is(&["m3u8"]) {
            (Kind::Playlist, if nested(&["index"]) { directory.into() } else { without_extension() })
        } else if is(&["mpd"]) {
            (Kind::Manifest, if nested(&["index", "manifest"]) { directory.into() } else { without_extension() })
        } else if is(&["mp4", "m4s", "m4v", "m4a", "cmfv", "cmfa"]) {
            let stream = match parts(directory) {
                0 => None,
                1 => flat(stem).map(|stream| format!("{directory}/{stream}").into()),
                _ => Some(directory.into()),
            };
            let Some(stream) = stream else { return Ok(None) };
            (Kind::Segment, stream)
        } else {
            return Ok(None);
        };
        let key = StreamKey::new(host, &stream, &[query], vhosts).map_err(TargetError::Path)?;
        Ok(Some(Self { name: Name::Key(key), kind }))
    }
}

/// The value of [`STREAM_PARAMETER`] for `key`: percent-encoded so that it is nothing but that
/// value in any query, of a playlist's URI too.
pub fn encode_parameter(key: &StreamKey) -> String {
    utf8_percent_encode(key.as_str(), ENCODED).to_string()
}

/// Whether the query names the stream, by [`STREAM_PARAMETER`] or [`ID_PARAMETER`].
pub fn has_parameter(query: Option<&str>) -> bool {
    let mut pairs = query.into_iter().flat_map(|query| query.split('&')).map(key_of);
    pairs.any(|key| matches!(key, STREAM_PARAMETER | ID_PARAMETER))
}

/// The query as the origin gets it: without [`STREAM_PARAMETER`] and [`ID_PARAMETER`], and without
/// the empty pair that the Go proxy puts behind its own. All else is as it was, in order and byte by
/// byte, since an origin may check a signature. None if nothing is left.
pub fn forwarded_query(query: Option<&str>) -> Option<Cow<'_, str>> {
    if !has_parameter(query) {
        return query.map(Cow::Borrowed);
    }
    let query = query?;
    let mut after_id = false;
    let kept: Vec<&str> = query
        .split('&')
        .filter(|pair| {
            let behind = std::mem::replace(&mut after_id, key_of(pair) == ID_PARAMETER);
            !(matches!(key_of(pair), STREAM_PARAMETER | ID_PARAMETER) || behind && pair.is_empty())
        })
        .collect();
    (!kept.is_empty()).then(|| Cow::Owned(kept.join("&")))
}

fn key_of(pair: &str) -> &str {
    pair.split('=').next().unwrap_or_default()
}

/// The stream that the query names itself.
fn named(query: &str) -> Result<Option<Name>, TargetError> {
    let value = |name: &str| query.split('&').find(|pair| key_of(pair) == name).map(|pair| pair.get(name.len() + 1..));
    if let Some(value) = value(STREAM_PARAMETER) {
        let value = percent_decode_str(value.unwrap_or_default()).decode_utf8().map_err(|_| TargetError::NotUtf8)?;
        // Another spelling of a key would be placed as another stream.
        if value.split('/').any(str::is_empty) {
            return Err(TargetError::Parameter(StreamError::NoStream));
        }
        return StreamKey::from_shared(&value).map(|key| Some(Name::Key(key))).map_err(TargetError::Parameter);
    }
    let Some(id) = value(ID_PARAMETER) else { return Ok(None) };
    let id = id.unwrap_or_default();
    let well_formed = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if id.is_empty() || id.len() > MAX_ID_LEN || !well_formed {
        return Err(TargetError::Id);
    }
    Ok(Some(Name::Id(id.to_owned())))
}

/// A path up to its last slash, which may be percent-encoded, and what follows that.
fn split_last(path: &str) -> (&str, &str) {
    let encoded = path.as_bytes().windows(3).rposition(|bytes| bytes.eq_ignore_ascii_case(b"%2f"));
    match (path.rfind('/'), encoded) {
        (slash, Some(encoded)) if slash.is_none_or(|slash| slash < encoded) => (&path[..encoded], &path[encoded + 3..]),
        (Some(slash), _) => (&path[..slash], &path[slash + 1..]),
        (None, _) => ("", path),
    }
}

/// How many parts of a key a path has, counted as [`StreamKey::new`] does.
fn parts(path: &str) -> usize {
    let path = percent_decode_str(path).decode_utf8_lossy().replace("/_definst_", "");
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// The stream of a segment in the flat layout of nginx-rtmp, from the segment's name.
fn flat(stem: &str) -> Option<&str> {
    let (stream, suffix) = stem.rsplit_once('-')?;
    let segment = suffix == "init" || !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit());
    (segment && !stream.is_empty()).then_some(stream)
}
