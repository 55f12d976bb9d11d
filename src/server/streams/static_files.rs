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
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use http_body_util::Empty;
use percent_encoding::percent_decode_str;
use tower_http::services::fs::{DefaultServeDirFallback, ServeDir};

use self::directory::Directory;
use crate::log_throttle::LogThrottle;
use crate::server::http;

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
    complaints: LogThrottle<()>,
}

impl StaticFiles {
    /// Serves `directory`, which need not exist yet, and may be replaced at any time.
    pub fn new(directory: PathBuf) -> Self {
        let files = ServeDir::with_backend("", Directory::new(directory));
        Self { files, complaints: LogThrottle::new(COMPLAINT_PERIOD, 1) }
    }

    /// Answers a `GET` or `HEAD`. The path is that of the request's URI; what there is no file for is
    /// answered with 404, other failures with other codes, and all of them as [`http::error`] does.
    pub async fn serve(&self, request: Request) -> Response {
        let (Parts { method, uri, mut headers, .. }, _) = request.into_parts();
        if !is_servable(uri.path()) {
            return http::error(StatusCode::NOT_FOUND, "no such file");
        }
        // What is checked before a GET is answered is to be checked before a HEAD is.
        let head = method == Method::HEAD;
        let method = if head { Method::GET } else { method };
        let range = headers.remove(header::RANGE).and_then(|range| single_range(range.as_bytes()));
        let if_range = headers.remove(header::IF_RANGE);
        let mut answer = match range {
            // Ranges are defined for GET alone (section 14.2).
            Some(range) if !head => self.part(&method, &uri, headers, &range, if_range.as_ref()).await,
            _ => self.answer(&method, &uri, &headers).await,
        };
        if answer.status().is_client_error() || answer.status().is_server_error() {
            answer = as_error(&answer);
        }
        if head {
            *answer.body_mut() = Body::empty();
        }
        answer
    }

    /// A range of a file, or the whole if the range is of a file that is no more.
    async fn part(
        &self,
        method: &Method,
        uri: &Uri,
        mut headers: HeaderMap,
        range: &str,
        if_range: Option<&HeaderValue>,
    ) -> Response {
        if let Ok(range) = range.try_into() {
            headers.insert(header::RANGE, range);
        }
        let answer = self.answer(method, uri, &headers).await;
        // A suffix longer than the file is all of it (section 14.1.2).
        let all = range.starts_with("bytes=-") && range != "bytes=-0";
        let whole = match answer.status() {
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE
                if if_range.is_some_and(|condition| !is_unchanged(condition.as_bytes(), answer.headers())) =>
            {
                true
            }
            // Of a file without a byte there is no range.
            StatusCode::PARTIAL_CONTENT => answer.headers().get(header::CONTENT_LENGTH).is_some_and(|len| len == "0"),
            StatusCode::RANGE_NOT_SATISFIABLE => all,
            _ => false,
        };
        if !whole {
            return answer;
        }
        headers.remove(header::RANGE);
        self.answer(method, uri, &headers).await
    }

    async fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Response {
        let mut asked = Request::new(Empty::<bytes::Bytes>::new());
        asked.method_mut().clone_from(method);
        asked.uri_mut().clone_from(uri);
        asked.headers_mut().clone_from(headers);
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

/// A `Range` as the library understands it (RFC 9110, section 14.1). None for what is to be ignored:
/// another unit than bytes, bad syntax, and several ranges at once.
fn single_range(range: &[u8]) -> Option<String> {
    let (unit, range) = str::from_utf8(range).ok()?.split_once('=')?;
    let (first, last) = range.trim_ascii().split_once('-')?;
    // No file is longer than eighteen digits say, and they are sure to fit.
    let number = |digits: &str| -> Option<u64> {
        let well_formed = digits.len() <= 18 && digits.bytes().all(|digit| digit.is_ascii_digit());
        if well_formed { digits.parse().ok() } else { None }
    };
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (first, last) {
        ("", last) => Some(format!("bytes=-{}", number(last)?)),
        (first, "") => Some(format!("bytes={}-", number(first)?)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| format!("bytes={first}-{last}"))
        }
    }
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
    fn one_range_in_bytes_is_understood_and_anything_else_ignored() {
        for (range, understood) in [
            ("bytes=0-0", "bytes=0-0"),
            ("bytes=5-", "bytes=5-"),
            ("bytes=-5", "bytes=-5"),
            ("BYTES= 007-08 ", "bytes=7-8"),
            ("bytes=0-999999999999999999", "bytes=0-999999999999999999"),
        ] {
            assert_eq!(single_range(range.as_bytes()).as_deref(), Some(understood));
        }
        for range in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=2-1",
            "bytes=a-b",
            "bytes=1",
            "bytes=0-1,4-5",
            "bytes=0-1,",
            "bytes=+1-2",
            "bytes=1--2",
            "items=0-1",
            "bytes=0-9999999999999999999",
            "\u{e9}",
        ] {
            assert_eq!(single_range(range.as_bytes()), None, "{range}");
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
