//! One URI of a playlist (RFC 3986).

use super::Context;

/// Appends `uri`, with the parameter if it leads back to the proxy.
pub(super) fn rewrite(uri: &str, here: &Context<'_>, out: &mut Vec<u8>) {
    let Some((rooted, reference)) = ours(uri, here.authorities) else {
        out.extend_from_slice(uri.as_bytes());
        return;
    };
    out.extend_from_slice(rooted.as_bytes());

    let (reference, fragment) = reference.split_at(reference.find('#').unwrap_or(reference.len()));
    match reference.split_once('?') {
        None => {
            out.extend_from_slice(reference.as_bytes());
            out.push(b'?');
            parameter(here, out);
        }
        Some((path, query)) => {
            out.extend_from_slice(path.as_bytes());
            out.push(b'?');
            extend_query(query, here, out);
        }
    }
    out.extend_from_slice(fragment.as_bytes());
}

/// What is left of a URI that leads back to the proxy once its scheme and authority are gone, and
/// what to put before it so that it has a rooted path. None for URIs that lead elsewhere.
fn ours<'a>(uri: &'a str, authorities: &[&str]) -> Option<(&'static str, &'a str)> {
    let (default_port, rest) = match scheme(uri) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => (":80", &uri[scheme.len() + 1..]),
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => (":443", &uri[scheme.len() + 1..]),
        Some(_) => return None,
        None if uri.starts_with("//") => (":80", uri),
        None => return Some(("", uri)),
    };
    let rest = rest.strip_prefix("//")?;
    let (authority, reference) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let named = without_port(authority, default_port);
    let known = |known: &&str| !named.is_empty() && without_port(known, ":80").eq_ignore_ascii_case(named);
    if !authorities.iter().any(known) {
        return None;
    }
    // Two slashes at the beginning would make the path an authority (RFC 3986, section 4.2).
    let rooted = match reference.as_bytes() {
        [b'/', b'/' | b'\\', ..] => "/.",
        [b'/', ..] => "",
        _ => "/",
    };
    Some((rooted, reference))
}

/// The scheme, without its colon (RFC 3986, section 3.1).
fn scheme(uri: &str) -> Option<&str> {
    let (scheme, _) = uri.split_once(':')?;
    let mut bytes = scheme.bytes();
    let well_formed = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    well_formed.then_some(scheme)
}

fn without_port<'a>(authority: &'a str, default: &str) -> &'a str {
    authority.strip_suffix(default).or_else(|| authority.strip_suffix(':')).unwrap_or(authority)
}

fn parameter(here: &Context<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(here.name.as_bytes());
    out.push(b'=');
    out.extend_from_slice(here.value.as_bytes());
}

/// The pairs as they are, a parameter of our name replaced where it stands first. Where there is
/// none, ours comes last, after an `&` even if the query is empty: taken out again it leaves exactly
/// what was there, and signatures stay valid.
fn extend_query(query: &str, here: &Context<'_>, out: &mut Vec<u8>) {
    let mut there = false;
    let mut first = true;
    for pair in query.split('&') {
        let same = pair.split('=').next() == Some(here.name);
        if same && there {
            continue;
        }
        if !first {
            out.push(b'&');
        }
        first = false;
        if same {
            there = true;
            parameter(here, out);
        } else {
            out.extend_from_slice(pair.as_bytes());
        }
    }
    if !there {
        out.push(b'&');
        parameter(here, out);
    }
}
