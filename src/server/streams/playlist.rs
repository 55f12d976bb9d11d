//! HLS playlists, rewritten on their way so that every request for what they name says which stream it
//! is of. Nothing is remembered: any node can answer those requests, also after a restart.

use std::{io::Read, time::Duration};

use axum::{
    body::Body,
    http::{HeaderName, StatusCode, header},
    response::Response,
};
use flate2::read::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::{forward::Answer, target};
use crate::{
    codec::m3u8::{self, Context},
    error::{Error, Kind, Result},
    metrics::Metrics,
    relay::http::OriginBody,
    session::Delivery,
};

/// The longest playlist, unpacked, in bytes.
const MAX_PLAYLIST: usize = 1024 * 1024;

/// What a server calls playlists (RFC 8216, section 4, and older names).
const TYPES: [&str; 4] = ["application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl"];

/// What is no longer true of a text that was changed.
const OF_THE_BODY: [HeaderName; 7] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Whether an origin says that it sends a playlist.
pub(super) fn is_playlist(response: &Response<OriginBody>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    response.status() == StatusCode::OK && TYPES.iter().any(|name| name.eq_ignore_ascii_case(kind))
}

/// An origin's playlist as the client gets it. All of it must come within `limit`.
pub(super) async fn rewritten(answer: Answer, is_head: bool, limit: Duration, metrics: &Metrics) -> Result<Response> {
    let Answer { response, stream, authorities, .. } = answer;
    let (mut head, body) = response.into_parts();
    let encoding = head.headers.get(header::CONTENT_ENCODING).map(|encoding| encoding.as_bytes().to_vec());
    for name in OF_THE_BODY {
        head.headers.remove(name);
    }
    if is_head {
        return Ok(Response::from_parts(head, Body::empty()));
    }
    let packed = timeout(limit, read(body))
        .await
        .unwrap_or_else(|_| Err(Error::origin(Kind::Timeout, format!("the playlist has not come in {limit:?}"))))?;
    metrics.http().piece(Delivery::Hls, 0, packed.len() as u64);
    let text = match encoding.as_deref() {
        None | Some(b"identity") => packed,
        Some(b"gzip" | b"x-gzip") => unpack(&packed)?,
        Some(other) => {
            let message = format!("the playlist is encoded as {}, which was not asked for", other.escape_ascii());
            return Err(Error::origin(Kind::Protocol, message));
        }
    };
    let parameter = target::encode_parameter(&stream);
    let here = Context {
        name: target::STREAM_PARAMETER,
        value: &parameter,
        authorities: &[authorities[0].as_str(), authorities[1].as_str()],
    };
    let mut out = Vec::new();
    m3u8::rewrite(&text, &here, &mut out)
        .map_err(|error| Error::origin(Kind::Protocol, format!("what the origin sent is no playlist: {error}")))?;
    Ok(Response::from_parts(head, Body::from(out)))
}

async fn read(mut body: OriginBody) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if text.len() + data.len() > MAX_PLAYLIST {
                return Err(too_long());
            }
            text.extend_from_slice(&data);
        }
    }
    Ok(text)
}

fn unpack(packed: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    // Some bytes unpack to a thousand times as many.
    let unpacked = MultiGzDecoder::new(packed).take(MAX_PLAYLIST as u64 + 1).read_to_end(&mut text);
    unpacked.map_err(|error| Error::origin(Kind::Protocol, format!("the playlist's gzip is broken: {error}")))?;
    if text.len() > MAX_PLAYLIST { Err(too_long()) } else { Ok(text) }
}

fn too_long() -> Error {
    Error::origin(Kind::Limit, format!("the playlist is longer than {MAX_PLAYLIST} bytes"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        packer.write_all(bytes).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn gzip_is_unpacked_up_to_the_limit_and_no_further() {
        assert_eq!(unpack(&gzip(b"#EXTM3U\n")).unwrap(), b"#EXTM3U\n");
        assert_eq!(unpack(&gzip(&vec![b'#'; MAX_PLAYLIST])).unwrap().len(), MAX_PLAYLIST);
        let bomb = unpack(&gzip(&vec![b'#'; 50 * MAX_PLAYLIST])).unwrap_err();
        assert!(bomb.message().contains("longer than 1048576 bytes"), "{bomb}");
        assert!(unpack(b"no gzip").is_err());
        let cut = gzip(b"#EXTM3U\n");
        assert!(unpack(&cut[..cut.len() - 4]).is_err());
    }
}
