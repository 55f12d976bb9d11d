//! Bearer tokens (RFC 6750).

use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use subtle::ConstantTimeEq;

use crate::{config::Secret, server::http};

/// Whether a request with these headers may pass. Without a token, every request may.
pub(super) fn permits(token: Option<&Secret>, headers: &HeaderMap) -> bool {
    let Some(token) = token else { return true };
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    match (given.next(), given.next()) {
        (Some(only), None) => bearer(only).is_some_and(|given| equal(given, token.expose().as_bytes())),
        _ => false,
    }
}

/// The answer to one who may not.
pub(super) fn challenge() -> Response {
    let mut response = http::error(StatusCode::UNAUTHORIZED, "a valid bearer token is needed");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// The token of `Bearer TOKEN`. The scheme's case does not matter (RFC 9110, 11.1).
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Takes the same time for every `given` of one length, and never accepts an empty secret.
fn equal(given: &[u8], secret: &[u8]) -> bool {
    let padded: Vec<u8> = (0..secret.len()).map(|i| given.get(i).copied().unwrap_or_default()).collect();
    let same_length = given.len().ct_eq(&secret.len());
    bool::from(padded.ct_eq(secret) & same_length) && !secret.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permitted(token: &str, authorization: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        permits(Some(&Secret::new(token)), &headers)
    }

    #[test]
    fn only_the_whole_token_opens() {
        for accepted in ["Bearer s3cret", "bearer s3cret", "BEARER s3cret", "Bearer  s3cret "] {
            assert!(permitted("s3cret", &[accepted]), "{accepted}");
        }
        for refused in [
            "Bearer s3cre",
            "Bearer s3crets",
            "Bearer s3creT",
            "Bearer ",
            "Bearer",
            "s3cret",
            "Basic s3cret",
            "Bearers3cret",
            "Bearer s3cret s3cret",
            "",
            "Bearer \u{0}",
        ] {
            let Ok(value) = HeaderValue::from_str(refused) else { continue };
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
            assert!(!permits(Some(&Secret::new("s3cret")), &headers), "{refused}");
        }
        assert!(!permitted("s3cret", &[]));
        assert!(!permitted("s3cret", &["Bearer s3cret", "Bearer s3cret"]), "which of two counts is nobody's guess");
    }

    #[test]
    fn an_empty_secret_opens_nothing() {
        assert!(!permitted("", &["Bearer "]));
        assert!(!permitted("", &["Bearer x"]));
    }

    #[test]
    fn a_token_that_ends_in_nul_bytes_is_not_taken_for_its_padding() {
        assert!(!equal(b"abc", b"abc\0"));
        assert!(!equal(b"abc\0", b"abc"));
    }

    #[test]
    fn without_a_token_all_may_pass() {
        assert!(permits(None, &HeaderMap::new()));
    }
}
