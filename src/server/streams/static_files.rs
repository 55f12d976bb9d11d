//! Files beside the streams (`PROXY_STATIC_FILES`), such as web players.
//!
//! A directory is never listed; its `index.html` is served, under the path that ends with a slash.
//! Names that begin with a dot are not served, nor is anything that is no regular file. Symbolic links
//! are followed as long as they stay within the directory, which is how Kubernetes mounts files.

mod directory;

use std::{
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
    response::Response,
};
use http_body_util::Empty;
use percent_encoding::percent_decode_str;
use tower_http::services::fs::{DefaultServeDirFallback, ServeDir};

use self::directory::Directory;
use crate::server::{http, throttle::Throttle};

/// For how long after a change a file may change again without another time of change, generously:
/// file systems keep times no finer than their clock ticks, some no finer than a second.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// How often the failure to read files is logged.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);
/// What an error keeps of the headers that came with it.
const KEPT: [HeaderName; 2] = [header::ALLOW, header::CONTENT_RANGE];

/// Serves the files of a directory, with conditions and ranges (RFC 9110, sections 13 and 14).
pub struct StaticFiles {
    files: ServeDir<DefaultServeDirFallback, Directory>,
    complaints: Throttle<()>,
}

impl StaticFiles {
    /// Serves `directory`, which need not exist yet, and may be replaced at any time.
    pub fn new(directory: PathBuf) -> Self {
        let files = ServeDir::with_backend("", Directory::new(directory)).ignore_multi_range_requests(true);
        Self { files, complaints: Throttle::new(COMPLAINT_PERIOD, 1) }
    }

    /// Answers a `GET` or `HEAD`. The path is that of the request's URI; what there is no file for is
    /// answered with 404, other failures with other codes, and all of them as [`http::error`] does.
    pub async fn serve(&self, request: Request) -> Response {
        if !is_servable(request.uri().path()) {
            return http::error(StatusCode::NOT_FOUND, "no such file");
        }
        let mut headers = request.headers().clone();
        let head = request.method() == Method::HEAD;
        // Ranges are defined for GET alone, and one that is not understood is as if it were not there.
        if head || !headers.get(header::RANGE).is_some_and(|range| is_range(range.as_bytes())) {
            headers.remove(header::RANGE);
        }
        let if_range = headers.remove(header::IF_RANGE);

        let mut answer = self.answer(&request, &headers).await;
        if let Some(if_range) = if_range
            && matches!(answer.status(), StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE)
            && !is_unchanged(if_range.as_bytes(), answer.headers())
        {
            headers.remove(header::RANGE);
            answer = self.answer(&request, &headers).await;
        }
        if head {
            *answer.body_mut() = Body::empty();
        }
        if answer.status().is_client_error() || answer.status().is_server_error() {
            return as_error(&answer);
        }
        answer
    }

    async fn answer(&self, request: &Request, headers: &HeaderMap) -> Response {
        let mut asked = Request::new(Empty::<bytes::Bytes>::new());
        // What is checked before a GET is answered is to be checked before a HEAD is.
        *asked.method_mut() = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
        *asked.uri_mut() = request.uri().clone();
        *asked.headers_mut() = headers.clone();
        match self.files.clone().try_call(asked).await {
            Ok(mut answer) => {
                qualify(answer.headers_mut(), SystemTime::now());
                answer.map(Body::new)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => http::error(StatusCode::NOT_FOUND, "no such file"),
            Err(error) => {
                if let Some(held_back) = self.complaints.admit(&()) {
                    tracing::warn!(%error, held_back, "a file cannot be served");
                }
                http::error(StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read")
            }
        }
    }
}

/// Whether a path may name a file at all. What browsers, file systems and we could understand in
/// different ways is none.
fn is_servable(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    path.is_empty()
        || path.strip_suffix('/').unwrap_or(path).split('/').all(|part| {
            let name = percent_decode_str(part).decode_utf8();
            name.is_ok_and(|name| {
                !name.is_empty()
                    && !name.starts_with('.')
                    && !name.contains(|c: char| c.is_control() || c == '/' || c == '\\')
            })
        })
}

/// Whether a `Range` is well formed and in bytes (RFC 9110, section 14.1).
fn is_range(range: &[u8]) -> bool {
    let Some((unit, ranges)) = range.split_at_checked(b"bytes=".len()) else { return false };
    // Longer than any file's length; eighteen digits are sure to fit into 64 bits.
    let number = |digits: &[u8]| digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    unit.eq_ignore_ascii_case(b"bytes=")
        && ranges.split(|byte| *byte == b',').all(|range| {
            let mut ends = range.trim_ascii().splitn(2, |byte| *byte == b'-');
            match (ends.next(), ends.next()) {
                (Some([]), Some(suffix)) => !suffix.is_empty() && number(suffix),
                (Some(first), Some([])) => number(first),
                (Some(first), Some(last)) => {
                    let value =
                        |digits| str::from_utf8(digits).ok().and_then(|digits: &str| digits.parse::<u64>().ok());
                    number(first) && number(last) && value(first) <= value(last)
                }
                _ => false,
            }
        })
}

/// Makes validators no stronger than they are. The library's tag is made from the time of change and
/// the length. A file that changed a moment ago may change again without any of these changing: its tag
/// is a weak one for now (RFC 9110, section 8.8.1). A time of change in the future is none (8.8.2.1).
fn qualify(headers: &mut HeaderMap, now: SystemTime) {
    let changed =
        headers.get(header::LAST_MODIFIED).and_then(|value| httpdate::parse_http_date(value.to_str().ok()?).ok());
    if changed.is_some_and(|changed| changed > now) {
        headers.remove(header::LAST_MODIFIED);
    }
    let settled = changed.is_some_and(|changed| now.duration_since(changed).is_ok_and(|age| age >= SETTLED_AFTER));
    if !settled
        && let Some(tag) = headers.get(header::ETAG)
        && let Ok(weak) = [b"W/", tag.as_bytes()].concat().try_into()
    {
        headers.insert(header::ETAG, weak);
    }
}

/// Whether the file of which a client has a part is still the same, as far as a strong validator can
/// tell (RFC 9110, section 13.1.5).
fn is_unchanged(if_range: &[u8], answer: &HeaderMap) -> bool {
    let Some(tag) = answer.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")) else { return false };
    if if_range.starts_with(b"\"") {
        return tag.as_bytes() == if_range;
    }
    answer.get(header::LAST_MODIFIED).is_some_and(|changed| changed.as_bytes() == if_range)
}

fn as_error(answer: &Response) -> Response {
    let message = match answer.status() {
        StatusCode::NOT_FOUND => "no such file",
        StatusCode::METHOD_NOT_ALLOWED => "a file can only be read",
        StatusCode::PRECONDITION_FAILED => "the file has changed",
        StatusCode::RANGE_NOT_SATISFIABLE => "the file ends before the range",
        _ => "the file cannot be read",
    };
    let mut error = http::error(answer.status(), message);
    for name in KEPT {
        if let Some(value) = answer.headers().get(&name) {
            error.headers_mut().insert(name, value.clone());
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_cannot_be_misunderstood_name_files() {
        for path in ["/", "/a", "/a/", "/a/b.html", "/%C3%A9/b", "/a%20b", "/a..b", "/a./b", "/~x", "/a:b"] {
            assert!(is_servable(path), "{path}");
        }
        for path in [
            "",
            "*",
            "a",
            "//",
            "//a",
            "/a//b",
            "/a//",
            "/.",
            "/..",
            "/a/../b",
            "/%2e%2e/b",
            "/%2E./b",
            "/.git/config",
            "/a/.b",
            "/%2Ea",
            "/a%2Fb",
            "/..%2fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0A",
            "/%FF",
            "/a%2f",
        ] {
            assert!(!is_servable(path), "{path}");
        }
    }

    #[test]
    fn ranges_that_are_not_understood_are_told_from_those_that_are() {
        for range in [
            "bytes=0-0",
            "bytes=5-",
            "bytes=-5",
            "BYTES=1-2",
            "bytes=0-1,4-",
            "bytes=0-1, -4",
            "bytes=0-999999999999999999",
        ] {
            assert!(is_range(range.as_bytes()), "{range}");
        }
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=1",
            "bytes=0-1,",
            "bytes=+1-2",
            "bytes=1--2",
            "items=0-1",
            "bytes=0-99999999999999999999",
        ] {
            assert!(!is_range(range.as_bytes()), "{range}");
        }
    }

    #[test]
    fn a_file_that_has_just_changed_has_a_weak_tag_and_one_from_the_future_no_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let qualified = |changed: SystemTime| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, "\"1-2\"".parse().unwrap());
            headers.insert(header::LAST_MODIFIED, httpdate::fmt_http_date(changed).parse().unwrap());
            qualify(&mut headers, now);
            (headers[header::ETAG].to_str().unwrap().to_owned(), headers.contains_key(header::LAST_MODIFIED))
        };
        let second = Duration::from_secs(1);
        assert_eq!(qualified(now - 2 * second), ("\"1-2\"".to_owned(), true));
        assert_eq!(qualified(now - second), ("W/\"1-2\"".to_owned(), true));
        assert_eq!(qualified(now), ("W/\"1-2\"".to_owned(), true));
        assert_eq!(qualified(now + second), ("W/\"1-2\"".to_owned(), false));
    }

    #[test]
    fn a_range_is_conditional_on_strong_validators_only() {
        let date = "Sun, 22 Nov 2026 16:26:28 GMT";
        let unchanged = |if_range: &str, tag: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, tag.parse().unwrap());
            headers.insert(header::LAST_MODIFIED, date.parse().unwrap());
            is_unchanged(if_range.as_bytes(), &headers)
        };
        assert!(unchanged("\"a\"", "\"a\""));
        assert!(unchanged(date, "\"a\""));
        assert!(!unchanged("\"b\"", "\"a\""));
        assert!(!unchanged("W/\"a\"", "\"a\""));
        assert!(!unchanged("W/\"a\"", "W/\"a\""));
        assert!(!unchanged("\"a\"", "W/\"a\""));
        assert!(!unchanged(date, "W/\"a\""));
        assert!(!unchanged("Sun, 22 Nov 2026 16:26:29 GMT", "\"a\""));
        assert!(!unchanged("", "\"a\""));
    }
}
